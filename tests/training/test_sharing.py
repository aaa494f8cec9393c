import json
import os
import shutil
from pathlib import Path

import pytest
from commandline import TINY_RECIPE, okdhp

from training.datasets import load_dataset
from training.sharing import warn_of_shared

SAID = "pictures of val are in train, too: scores of what has learnt from them are flattered"


def split_folder(folder: Path, target: Path, train: slice, val: slice) -> Path:
    """`folder` with those of its pictures in either split."""
    shutil.copytree(folder, target)
    for name, kept in (("train", train), ("val", val)):
        content = json.loads((target / f"{name}.json").read_text())
        content["images"] = content["images"][kept]
        (target / f"{name}.json").write_text(json.dumps(content))
    return target


def test_pictures_that_are_learnt_from_and_measured_on_are_counted(
    drawn_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    warn_of_shared(split_folder(drawn_folder, tmp_path / "apart", slice(12), slice(12, 24)))
    assert not caplog.messages
    warn_of_shared(split_folder(drawn_folder, tmp_path / "shared", slice(20), slice(15, 24)))
    assert caplog.messages == [f"5 of 9 {SAID}"]


@pytest.mark.parametrize(
    ("other", "shared"), [("another picture", 23), ("as many bytes", 23), ("missing", 23), (None, 24)]
)
@pytest.mark.parametrize("split", ["train", "val"])
def test_in_cocos_layout_pictures_of_one_name_are_shared_where_they_are_one(
    drawn_folder: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    other: str | None,
    shared: int,
    split: str,
) -> None:
    (tmp_path / "annotations").mkdir()
    for name in ("train", "val"):
        shutil.copytree(drawn_folder / "images", tmp_path / f"{name}2017")
        shutil.copy(drawn_folder / f"{name}.json", tmp_path / "annotations" / f"person_keypoints_{name}2017.json")
    if other is not None:
        file = tmp_path / f"{split}2017" / "1.png"
        before = file.stat()
        file.write_bytes(bytes(before.st_size) if other == "as many bytes" else other.encode())
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # tells nothing
        if other == "missing":
            file.unlink()
    warn_of_shared(tmp_path)
    assert caplog.messages == [f"{shared} of 24 {SAID}"]


def test_a_picture_is_the_same_however_its_path_is_written(
    drawn_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = shutil.copytree(drawn_folder, tmp_path / "people")
    content = json.loads((folder / "val.json").read_text())
    for entry in content["images"]:
        entry["file_name"] = "./" + entry["file_name"]
    (folder / "val.json").write_text(json.dumps(content))
    warn_of_shared(folder)
    assert caplog.messages == [f"24 of 24 {SAID}"]


@pytest.mark.parametrize("val", [None, "{"])
def test_where_there_is_no_val_to_compare_with_nothing_is_said(
    drawn_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, val: str | None
) -> None:
    folder = shutil.copytree(drawn_folder, tmp_path / "people")
    (folder / "val.json").unlink()
    if val is not None:
        (folder / "val.json").write_text(val)
    warn_of_shared(folder)
    warn_of_shared(folder, "train")
    assert not caplog.messages
    assert len(load_dataset(folder, "train").people) == 36


def test_training_export_and_evaluation_say_it(
    trained: Path, drawn_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(TINY_RECIPE.replace("TASK", "pose").replace("KEPT", "b"))
    networks = ("--pose", trained / "pose.onnx", "--detector", trained / "detector.onnx")
    for command in (
        ("train", recipe, "--out", tmp_path / "run", "--device", "cpu", "--max-hours", "0"),
        ("export", trained / "pose" / "last.pt", tmp_path / "pose.onnx"),
        ("evaluate", *networks),
    ):
        caplog.clear()
        okdhp(*command, "--data", drawn_folder)
        assert caplog.messages.count(f"24 of 24 {SAID}") == 1, command
