"""Bytes to an upright RGB picture: what is accepted, what is refused, and with which error."""

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageOps
from PIL.PngImagePlugin import PngImageFile

from app.errors import BadImage, PoseError, TooLarge, UnsupportedFormat
from app.images import decode

LIMIT = 1_000_000
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")


def scene(width: int = 40, height: int = 28) -> PillowImage.Image:
    """A smooth picture with different corners, so that no two orientations look alike and JPEG is nearly exact."""
    rows, columns = np.mgrid[:height, :width]
    planes = [255 * columns / width, 255 * rows / height, 120 + 0 * rows]
    return PillowImage.fromarray(np.stack(planes, -1).astype(np.uint8))


def saved(image: PillowImage.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def assert_alike(image: NDArray[np.uint8], expected: PillowImage.Image, tolerance: int = 0) -> None:
    wanted = np.asarray(expected.convert("RGB"), int)
    assert image.dtype == np.uint8 and image.shape == wanted.shape and image.flags.c_contiguous
    assert abs(image.astype(int) - wanted).max() <= tolerance


def chunk(kind: bytes, data: bytes) -> bytes:
    """One chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(width: int, height: int, color_type: int, pixels: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, color_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def png_claiming(width: int, height: int) -> bytes:
    """A PNG whose header claims a size, with next to nothing in it."""
    return png_of(width, height, 2, zlib.compress(b""))


def black_png(side: int) -> bytes:
    """A complete grey PNG, all black: a thousandth of its pixels in bytes."""
    packer, row = zlib.compressobj(1), bytes(1 + side)
    return png_of(side, side, 0, b"".join(packer.compress(row) for _ in range(side)) + packer.flush())


@pytest.mark.parametrize("format, options, tolerance", [
    ("PNG", {}, 0), ("JPEG", {"quality": 95}, 6), ("WEBP", {"lossless": True}, 0),
    ("JPEG", {"quality": 95, "progressive": True}, 6), ("PNG", {"interlace": 1}, 0),
])  # fmt: skip
def test_each_format_gives_its_pixels(format: str, options: dict[str, object], tolerance: int) -> None:
    assert_alike(decode(saved(scene(), format, **options), max_pixels=LIMIT), scene(), tolerance)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_each_exif_orientation_is_applied_exactly_once(format: str, orientation: int) -> None:
    exif = PillowImage.Exif()
    exif[0x0112] = orientation
    options: dict[str, object] = {"lossless": True} if format == "WEBP" else {"quality": 95}
    data = saved(scene(), format, exif=exif, **options)
    expected = ImageOps.exif_transpose(PillowImage.open(io.BytesIO(data)))
    assert_alike(decode(data, max_pixels=LIMIT), expected, tolerance=4)


def test_exif_after_the_pixels_of_a_png_counts_too() -> None:
    exif = PillowImage.Exif()
    exif[0x0112] = 6
    plain, end = saved(scene(), "PNG"), chunk(b"IEND", b"")
    data = plain.removesuffix(end) + chunk(b"eXIf", exif.tobytes()[6:]) + end
    assert_alike(decode(data, max_pixels=LIMIT), scene().transpose(PillowImage.Transpose.ROTATE_270))


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_impossible_orientation_is_ignored(orientation: int) -> None:
    exif = PillowImage.Exif()
    exif[0x0112] = orientation
    assert_alike(decode(saved(scene(), "PNG", exif=exif), max_pixels=LIMIT), scene())


@pytest.mark.parametrize("exif", [b"Exif\0\0II*\0\xff\xff\xff\xff", b"nonsense"])
@pytest.mark.parametrize("format, options", [("JPEG", {"quality": 95}), ("PNG", {}), ("WEBP", {"lossless": True})])
def test_damaged_exif_is_ignored(format: str, options: dict[str, object], exif: bytes) -> None:
    data = saved(scene(), format, exif=exif, **options)
    assert_alike(decode(data, max_pixels=LIMIT), scene(), tolerance=6)


@pytest.mark.parametrize("mode", ["L", "P", "1", "LA"])
def test_grey_palette_and_bilevel_pictures_become_rgb(mode: str) -> None:
    image = scene().convert(mode)
    assert_alike(decode(saved(image, "PNG"), max_pixels=LIMIT), image, tolerance=1)


def test_grey_jpeg_becomes_rgb() -> None:
    image = scene().convert("L")
    assert_alike(decode(saved(image, "JPEG", quality=95), max_pixels=LIMIT), image, tolerance=3)


def test_cmyk_jpeg_becomes_rgb() -> None:
    data = saved(scene().convert("CMYK"), "JPEG", quality=95)
    assert_alike(decode(data, max_pixels=LIMIT), PillowImage.open(io.BytesIO(data)), tolerance=3)


def test_sixteen_bits_keep_the_upper_eight() -> None:
    levels = np.linspace(0, 65535, 40 * 28).reshape(28, 40).astype(np.uint16)
    decoded = decode(saved(PillowImage.fromarray(levels), "PNG"), max_pixels=LIMIT)
    assert abs(decoded.astype(int) - (levels >> 8)[..., None]).max() <= 1


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_transparency_is_dropped(format: str) -> None:
    image = scene().convert("RGBA")
    image.putalpha(128)
    options = {"lossless": True, "exact": True} if format == "WEBP" else {}
    assert_alike(decode(saved(image, format, **options), max_pixels=LIMIT), scene())


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_of_an_animation_the_first_frame_counts(format: str) -> None:
    later = PillowImage.new("RGB", scene().size, (255, 0, 0))
    options = {"lossless": True} if format == "WEBP" else {}
    data = saved(scene(), format, save_all=True, append_images=[later], duration=100, **options)
    assert_alike(decode(data, max_pixels=LIMIT), scene())


def test_a_one_pixel_picture_is_a_picture() -> None:
    assert decode(saved(scene(1, 1), "PNG"), max_pixels=1).shape == (1, 1, 3)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.99])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_a_truncated_picture_is_refused_not_filled_with_grey(format: str, share: float) -> None:
    noise = PillowImage.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8))
    data = saved(noise, format)
    with pytest.raises(BadImage):
        decode(data[: int(len(data) * share)], max_pixels=LIMIT)


def test_a_progressive_jpeg_cut_between_its_scans_is_refused() -> None:
    data = saved(scene(200, 150), "JPEG", progressive=True)
    scans = [index for index in range(len(data)) if data[index : index + 2] == b"\xff\xda"]
    with pytest.raises(BadImage):
        decode(data[: scans[len(scans) // 2]], max_pixels=LIMIT)


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\x10\0\0\0WEBP", b"RIFF"])
def test_nothing_or_a_mere_signature_is_refused(data: bytes) -> None:
    with pytest.raises((BadImage, UnsupportedFormat)):
        decode(data, max_pixels=LIMIT)


@pytest.mark.parametrize("format", ["GIF", "BMP", "TIFF"])
def test_other_formats_are_refused_by_their_first_bytes(format: str) -> None:
    with pytest.raises(UnsupportedFormat):
        decode(saved(scene(), format), max_pixels=LIMIT)


@pytest.mark.parametrize("data", [b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.7", b"hello", b"\0" * 100])
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises(UnsupportedFormat):
        decode(data, max_pixels=LIMIT)


def test_pixels_over_the_limit_are_refused_before_decoding() -> None:
    with pytest.raises(TooLarge, match="20000 x 20000"):
        decode(png_claiming(20_000, 20_000), max_pixels=LIMIT)
    with pytest.raises(TooLarge):
        decode(saved(scene(40, 28), "PNG"), max_pixels=40 * 28 - 1)
    assert decode(saved(scene(40, 28), "PNG"), max_pixels=40 * 28).shape == (28, 40, 3)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells a process's peak memory this way")
def test_a_complete_bomb_is_refused_before_a_pixel_takes_memory(tmp_path: Path) -> None:
    """100 million pixels in a 0.5 MB file; a process of its own, as peak memory is only ever known to rise."""
    (tmp_path / "bomb.png").write_bytes(black_png(10_000))
    code = """if True:
        import re, sys
        from app.errors import TooLarge
        from app.images import decode
        peak_kb = lambda: int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1])
        data = open(sys.argv[1], "rb").read()
        before = peak_kb()
        try:
            decode(data, max_pixels=50_000_000)
        except TooLarge:
            print((peak_kb() - before) // 1024)
    """
    root = Path(__file__).parent.parent.parent
    command = [sys.executable, "-c", code, str(tmp_path / "bomb.png")]
    grown_mb = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
    assert int(grown_mb) < 50  # the pixels alone are 95


def test_pillow_never_decodes_an_ordinary_png(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []
    monkeypatch.setattr(PngImageFile, "load", lambda self: decoded.append(self))
    assert_alike(decode(saved(scene(), "PNG"), max_pixels=LIMIT), scene())
    assert not decoded


def test_a_header_that_claims_more_than_there_is_gives_an_error_not_black() -> None:
    with pytest.raises(BadImage):
        decode(png_claiming(300, 300), max_pixels=LIMIT)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(["JPEG", "PNG", "WEBP"]), st.data())
def test_damaged_bytes_give_a_picture_or_one_of_our_errors(format: str, data: st.DataObject) -> None:
    good = bytearray(saved(scene(), format))
    for _ in range(data.draw(st.integers(1, 8))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    try:
        image = decode(bytes(good), max_pixels=LIMIT)
    except PoseError:
        return
    assert image.ndim == 3 and image.shape[2] == 3 and image.shape[0] * image.shape[1] <= LIMIT


@settings(deadline=None)
@given(st.binary(max_size=200))
@example(b"\xff\xd8\xff\xe0")
def test_any_bytes_at_all_give_a_picture_or_one_of_our_errors(data: bytes) -> None:
    for signature in (b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBPVP8 "):
        with pytest.raises(PoseError):
            decode(signature + data, max_pixels=LIMIT)


def test_a_photograph_decodes_as_pillow_decodes_it(tmp_path: Path) -> None:
    from skimage import data

    photograph = PillowImage.fromarray(data.astronaut())
    jpeg = saved(photograph, "JPEG", quality=90)
    assert_alike(decode(jpeg, max_pixels=LIMIT), PillowImage.open(io.BytesIO(jpeg)), tolerance=3)
