import json
import logging
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from drawn import changed

from training.data import digest, held_pictures, load_coco
from training.datasets import load_dataset
from training.person import keypoints_fault
from training.pictures import (
    NAMED,
    DataError,
)
from training.views import listed_people


def test_people_come_with_their_own_picture(drawn_folder: Path) -> None:
    dataset = load_dataset(drawn_folder, "train")
    assert (len(dataset.pictures), len(dataset.people)) == (24, 36)
    content = json.loads((drawn_folder / "train.json").read_text())
    for row, listed in enumerate(content["annotations"]):
        assert int(dataset.people.ids[row]) == listed["id"]
        assert int(dataset.image_ids[dataset.people.picture[row]]) == listed["image_id"]
        x, y, w, h = listed["bbox"]
        assert dataset.people.boxes[row].tolist() == [x, y, x + w, y + h]
    stored = cv2.imread(str(drawn_folder / "images" / "5.png"))[..., ::-1]
    np.testing.assert_array_equal(dataset.pictures.picture(4), stored)


def test_broken_pictures_are_named_and_left_out_with_their_people(
    drawn_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = changed(drawn_folder, tmp_path / "people", lambda content: content["images"][2].update(width=999))
    (folder / "images" / "1.png").write_bytes(b"not a picture")
    (folder / "images" / "2.png").unlink()
    with caplog.at_level(logging.WARNING):
        dataset = load_dataset(folder, "train")
    assert len(dataset.pictures) == 21
    assert not {1, 2, 3} & set(dataset.people.image_ids.tolist())
    said = caplog.text
    assert "1.png: not a readable picture" in said
    assert "2.png" in said
    assert "3.png: is 160x128, annotated 999x128" in said


def test_broken_annotations_are_named_and_left_out(
    drawn_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def edit(content: dict[str, Any]) -> None:
        first, second, third, fourth, fifth, sixth = content["annotations"][:6]
        del first["bbox"]
        second["bbox"][1] = None
        third["bbox"][2] = 0
        fourth["bbox"][:2] = [-500, -500]
        fifth["area"] = float("nan")
        sixth["bbox"] = [1, 2, 30]

    with caplog.at_level(logging.WARNING):
        dataset = load_dataset(changed(drawn_folder, tmp_path / "people", edit), "train")
    assert dataset.people.ids[:2].tolist() == [7, 8]
    for fault in (
        "1: its bbox is missing",
        "2: its bbox must be four finite numbers (x, y, width, height), got [",
        "3: its box is 0 x",
        "4: its box lies outside",
        "5: its area must be a finite number, got nan",
        "6: its bbox must be four finite numbers (x, y, width, height), got [1, 2, 30]",
    ):
        assert f"left out: annotation {fault}" in caplog.text


def test_numbers_may_be_written_as_texts(drawn_folder: Path, tmp_path: Path) -> None:
    def edit(content: dict[str, Any]) -> None:
        for annotation in content["annotations"]:
            annotation["bbox"] = [str(side) for side in annotation["bbox"]]
            annotation["keypoints"] = [str(number) for number in annotation["keypoints"]]

    texts, numbers = (load_dataset(folder, "train").people for folder in (
        changed(drawn_folder, tmp_path / "people", edit), drawn_folder
    ))  # fmt: skip
    assert torch.equal(texts.boxes, numbers.boxes) and torch.equal(texts.keypoints, numbers.keypoints)
    assert torch.equal(texts.labelled, numbers.labelled)


def test_a_person_with_bad_keypoints_is_still_a_person_to_the_detector(
    drawn_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def edit(content: dict[str, Any]) -> None:
        first, second, third, fourth = content["annotations"][:4]
        first["keypoints"][0] = float("nan")
        second["keypoints"] = second["keypoints"][:12]
        third["keypoints"][:3] = [900.0, 10.0, 2.0]
        fourth["bbox"] = [0, 0, 4, 4]

    with caplog.at_level(logging.WARNING):
        dataset = load_dataset(changed(drawn_folder, tmp_path / "people", edit), "train")
    people = dataset.people
    assert int(listed_people(dataset).valid.sum()) == len(people) == 36  # none of whom is background
    assert people.labelled.any(1).tolist() == [False] * 4 + [True] * 32
    for fault in (
        "1, whose box is kept: they must be finite numbers",
        "2, whose box is kept: expected 51 keypoint numbers, got 12",
        "3, whose box is kept: a labelled one lies far outside the picture",
        "4, whose box is kept: no labelled one is near the box",
    ):
        assert f"left out: keypoints of annotation {fault}" in caplog.text


@pytest.mark.parametrize("keep", ["memory", "files"])
def test_of_many_pictures_that_are_not_there_the_first_are_named_and_the_others_counted(
    drawn_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, keep: str
) -> None:
    shutil.copy(drawn_folder / "train.json", tmp_path)
    with pytest.raises(DataError, match="none of its 24 pictures could be read under"):
        load_dataset(tmp_path, "train", keep=keep)
    named = [message for message in caplog.messages if str(tmp_path / "images") in message]
    assert len(named) == NAMED == 10
    assert caplog.messages[-1] == "left out: 14 more"


def test_of_many_broken_annotations_the_first_are_named_and_the_others_counted(
    drawn_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = json.loads((drawn_folder / "train.json").read_text())
    for annotation in content["annotations"][1:]:
        annotation["bbox"] = [0, 0, 0, 0]
    (tmp_path / "train.json").write_text(json.dumps(content))
    (tmp_path / "images").symlink_to(drawn_folder / "images")
    assert len(load_dataset(tmp_path, "train").people) == 1
    broken = len(content["annotations"]) - 1
    assert sum("left out: annotation" in message for message in caplog.messages) == NAMED < broken
    assert caplog.messages[-1] == f"left out: {broken - NAMED} more"


def test_an_unlabelled_keypoint_may_lie_anywhere() -> None:
    entry = {"keypoints": [0.0, 0.0, 0.0] * 17, "bbox": [1, 1, 5, 5], "area": 9.0}
    assert keypoints_fault(entry, (10, 10)) is None
    entry["keypoints"] = [-500.0, 0.0, 0.0] * 17
    assert keypoints_fault(entry, (10, 10)) is None


@pytest.mark.parametrize("content", [None, "{", '{"images": []}'])
def test_a_folder_without_usable_pictures_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "train.json").write_text(content)
    with pytest.raises(DataError, match="train.json"):
        load_dataset(tmp_path, "train")


def test_nobody_held_out_is_said_as_such(drawn_folder: Path) -> None:
    with pytest.raises(DataError, match="none of its 24 pictures is held out at 1e-09"):
        load_coco(drawn_folder, "train", held_out=1e-9)


def test_what_training_keeps_aside_can_be_loaded_alone(drawn_folder: Path) -> None:
    whole, held = load_dataset(drawn_folder, "train"), load_dataset(drawn_folder, "train", held_out=0.4)
    expected = set(whole.image_ids[held_pictures(whole.image_ids, 0.4)].tolist())
    assert 0 < len(expected) < len(whole.pictures)
    assert set(held.image_ids.tolist()) == expected
    assert set(held.people.image_ids.tolist()) == expected


def test_other_annotations_have_another_digest(drawn_folder: Path, tmp_path: Path) -> None:
    def edit(content: dict[str, Any]) -> None:
        content["annotations"][0]["keypoints"][0] += 1

    first, again = (load_dataset(drawn_folder, "train").people for _ in range(2))
    other = load_dataset(changed(drawn_folder, tmp_path / "people", edit), "train").people
    assert digest(first) == digest(again) != digest(other)
