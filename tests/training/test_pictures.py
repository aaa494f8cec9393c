"""Pictures, wherever they are kept: what is left out, how they are turned, and what is cut from them."""

import logging
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from drawn import changed
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

import app.images
from app.geometry import crop_matrix, letterbox_matrix, warp
from training.augment import crop_matrices
from training.datasets import load_dataset
from training.pictures import (
    DataError,
    DecodedPictures,
    PictureFiles,
    as_one_kernel,
    decode,
    open_pictures,
    picture_size,
)

XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
)


def test_cpu_crops_are_the_ones_that_serve(drawn_folder: Path) -> None:
    dataset = load_dataset(drawn_folder, "train")
    matrices = [crop_matrix(box.numpy(), (48, 64)) for box in dataset.people.boxes[:3]]
    crops = dataset.pictures.sample(dataset.people.picture[:3], torch.from_numpy(np.stack(matrices)), (64, 48))
    for slot, matrix in enumerate(matrices):
        expected = warp(dataset.pictures.picture(int(dataset.people.picture[slot])), matrix, (48, 64))
        np.testing.assert_array_equal(crops[slot].permute(1, 2, 0).numpy(), expected)


def test_gpu_sampling_sees_what_the_cpu_sees(drawn_folder: Path) -> None:
    """The gather used on CUDA, run on the CPU: same place, same colours, up to how each one smooths."""
    dataset = load_dataset(drawn_folder, "train")
    index = torch.tensor([0, 1, 2])
    maps = [letterbox_matrix(tuple(dataset.pictures.size_wh[i].tolist()), (64, 96)) for i in range(3)]
    maps[1] = maps[1] @ np.array([[0.9, -0.3, 20], [0.3, 0.9, -10], [0, 0, 1]])
    matrices = torch.from_numpy(np.stack(maps))
    gathered = dataset.pictures.sample_by_gather(index, matrices, (96, 64)).float()
    warped = dataset.pictures.sample(index, matrices, (96, 64)).float()
    smooth = torch.nn.functional.avg_pool2d
    assert (smooth(gathered, 4) - smooth(warped, 4)).abs().mean() < 2.5
    shifted = smooth(gathered.roll(2, 3), 4)
    assert (shifted - smooth(warped, 4)).abs().mean() > 2 * (smooth(gathered, 4) - smooth(warped, 4)).abs().mean()


@pytest.mark.filterwarnings("ignore")  # the compiler warns of parts of its own
def test_what_cannot_be_compiled_runs_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    def plain(values: torch.Tensor) -> torch.Tensor:
        if len(values) == 5:
            raise RuntimeError("no compiler here")
        return values + 1

    assert as_one_kernel(plain, torch.zeros(5)) is plain
    assert "slower: no compiler here" in caplog.text


def test_pictures_left_in_their_files_are_those_in_memory(drawn_folder: Path) -> None:
    kept, left = (load_dataset(drawn_folder, "train", keep=keep) for keep in ("memory", "files"))
    assert isinstance(left.pictures, PictureFiles)
    torch.testing.assert_close(left.pictures.size_wh, kept.pictures.size_wh)
    rows = torch.arange(len(kept.people))
    matrices = crop_matrices(kept.people.boxes, (64, 48))
    crops = [d.pictures.sample(d.people.picture[rows], matrices, (64, 48)) for d in (kept, left)]
    torch.testing.assert_close(crops[0], crops[1], rtol=0, atol=0)


def test_a_picture_turned_by_exif_has_its_upright_size_wherever_it_is_kept(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (40, 20), (200, 0, 0)).save(tmp_path / "turned.jpg", exif=exif)
    for keep in ("memory", "files"):
        _, pictures = open_pictures(tmp_path, [{"file_name": "turned.jpg"}], torch.device("cpu"), keep)
        assert pictures.size_wh.tolist() == [[20, 40]]
        assert pictures.picture(0).shape == (40, 20, 3)


def test_headers_are_enough_to_leave_broken_pictures_out(
    drawn_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = changed(drawn_folder, tmp_path / "people", lambda content: content["images"][2].update(width=999))
    (folder / "images" / "1.png").write_bytes(b"not a picture")
    (folder / "images" / "2.png").unlink()
    with caplog.at_level(logging.WARNING):
        assert len(load_dataset(folder, "train", keep="files").pictures) == 21
    assert all(f"{number}.png" in caplog.text for number in (1, 2, 3))


def test_a_jpeg_that_was_cut_short_is_left_out_wherever_pictures_are_kept(tmp_path: Path) -> None:
    entries = [{"file_name": "whole.jpg"}, {"file_name": "half.jpg"}]
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "whole.jpg"), noise)
    content = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "half.jpg").write_bytes(content[: len(content) // 2])
    for keep in ("memory", "files"):
        kept, _ = open_pictures(tmp_path, entries, torch.device("cpu"), keep)
        assert [entry["file_name"] for entry in kept] == ["whole.jpg"]


@pytest.mark.parametrize("keep", ["memory", "files"])
def test_a_format_that_opencv_does_not_read_is_left_out_wherever_pictures_are_kept(tmp_path: Path, keep: str) -> None:
    for name in ("good.png", "odd.tga"):
        Image.new("RGB", (64, 48)).save(tmp_path / name)
    entries = [{"file_name": "good.png"}, {"file_name": "odd.tga"}]
    kept, _ = open_pictures(tmp_path, entries, torch.device("cpu"), keep)
    assert [entry["file_name"] for entry in kept] == ["good.png"]


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif", "avif"])
def test_a_picture_has_one_size_wherever_it_is_kept(tmp_path: Path, ending: str) -> None:
    path, exif = tmp_path / f"turned.{ending}", Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    try:
        Image.new("RGB", (64, 48)).save(path, exif=exif)
    except (OSError, KeyError):
        pytest.skip(f"this Pillow does not write {ending}")
    pixels = decode(path, None)
    assert isinstance(pixels, np.ndarray) and picture_size(path, None) == pixels.shape[1::-1]


@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
@pytest.mark.parametrize("said_by", ["exif", "xmp"])
def test_a_picture_is_turned_by_exif_alone_wherever_it_is_read(tmp_path: Path, ending: str, said_by: str) -> None:
    """As browsers turn it, in which people annotate."""
    path, exif, text = tmp_path / f"turned.{ending}", Image.Exif(), PngInfo()
    exif[ExifTags.Base.Orientation] = 6
    text.add_itxt("XML:com.adobe.xmp", XMP)
    xmp: dict[str, Any] = {"pnginfo": text} if ending == "png" else {"xmp": XMP.encode()}
    Image.new("RGB", (64, 48)).save(path, **({"exif": exif} if said_by == "exif" else xmp))
    kept, served = decode(path, None), app.images.decode(path.read_bytes(), max_pixels=10_000)
    assert isinstance(kept, np.ndarray)
    size_wh = (48, 64) if said_by == "exif" else (64, 48)
    assert picture_size(path, None) == kept.shape[1::-1] == served.shape[1::-1] == size_wh


@pytest.mark.parametrize("keep", ["memory", "files"])
def test_a_size_that_is_stated_as_stored_is_told_from_any_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, keep: str
) -> None:
    entries = [{"file_name": "1.png", "width": w, "height": h} for w, h in ((48, 64), (48, 48))]
    Image.new("RGB", (64, 48)).save(tmp_path / "1.png")
    open_pictures(tmp_path, entries, torch.device("cpu"), keep)
    said = f"left out: {tmp_path}/1.png: is 64x48, annotated 48x"
    assert caplog.messages == [
        f"{said}64: sizes and annotations are of the upright picture, which EXIF turns",
        f"{said}48",
    ]


def test_a_picture_that_breaks_later_stops_what_wants_it_and_is_named(drawn_folder: Path, tmp_path: Path) -> None:
    folder = changed(drawn_folder, tmp_path / "people", lambda content: None)
    dataset = load_dataset(folder, "train", keep="files")
    (folder / "images" / "1.png").write_bytes((folder / "images" / "1.png").read_bytes()[:100])
    matrices = crop_matrices(dataset.people.boxes[:4], (64, 48))
    with pytest.raises(DataError, match=r"1\.png: not a readable picture"):
        dataset.pictures.sample(dataset.people.picture[:4], matrices, (64, 48))


def test_pictures_stay_in_their_files_where_memory_cannot_hold_them(
    drawn_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = 12 * 3 * (160 * 128 + 128 * 176)
    for room, kind in ((needed, DecodedPictures), (needed - 1, PictureFiles)):
        monkeypatch.setattr("training.pictures.room_bytes", lambda device, room=room: room)
        assert isinstance(load_dataset(drawn_folder, "train").pictures, kind)


def test_pictures_can_be_kept_in_three_ways_only(drawn_folder: Path) -> None:
    with pytest.raises(DataError, match="got 'disk'"):
        load_dataset(drawn_folder, "train", keep="disk")
