"""Annotations as people write them: what can be used is, what cannot is named, and nothing wrong is learnt silently."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from drawn import changed

from training.annotations import read_annotations, whole
from training.config import Augment, Branch, Encoder, Recipe, Stage
from training.data import Dataset
from training.datasets import load_dataset
from training.detector_task import DetectorTask
from training.evaluate import judged
from training.joints import COCO
from training.person import BODY_SHARE
from training.pictures import DataError
from training.pose_task import PoseTask
from training.views import backgrounds, listed_people

RECIPE = Recipe(
    "tiny", "detector", (Stage(1, 64, 64, batch=4),), (Branch("a", (8, 8)),), "a", Encoder((8,) * 5, (0,) * 5),
    augment=Augment(mosaic=0, flip=0, rotation_deg=0),
)  # fmt: skip


def loaded(folder: Path, target: Path, edit: Any) -> Dataset:
    return load_dataset(changed(folder, target / "people", edit), "train")


def test_boxes_alone_are_people_to_find_and_no_poses_to_learn(drawn_folder: Path, tmp_path: Path) -> None:
    def edit(content: dict[str, Any]) -> None:
        for number, person in enumerate(content["annotations"]):
            if number % 2:
                person["keypoints"] = []
            else:
                del person["keypoints"]

    dataset = loaded(drawn_folder, tmp_path, edit)
    assert len(dataset.people) == 36
    assert not dataset.people.labelled.any()
    nobody_held = np.zeros(len(dataset.pictures), bool)
    assert int(DetectorTask(RECIPE, dataset, nobody_held).listed.valid.sum()) == 36
    assert len(PoseTask(Recipe("tiny", "pose", RECIPE.stages), dataset, nobody_held)) == 0


def test_an_area_that_is_missing_is_that_of_the_box(drawn_folder: Path, tmp_path: Path) -> None:
    dataset = loaded(drawn_folder, tmp_path, lambda content: [a.pop("area") for a in content["annotations"]])
    sides = dataset.people.boxes[:, 2:] - dataset.people.boxes[:, :2]
    torch.testing.assert_close(dataset.people.area, BODY_SHARE * sides.prod(1))


def test_keypoints_in_rows_of_three_are_read_too(drawn_folder: Path, tmp_path: Path) -> None:
    def edit(content: dict[str, Any]) -> None:
        for person in content["annotations"]:
            person["keypoints"] = np.reshape(person["keypoints"], (17, 3)).tolist()

    flat, rows = load_dataset(drawn_folder, "train"), loaded(drawn_folder, tmp_path, edit)
    torch.testing.assert_close(rows.people.keypoints, flat.people.keypoints)


def test_an_area_of_nought_is_one_that_is_missing(drawn_folder: Path, tmp_path: Path) -> None:
    dataset = loaded(drawn_folder, tmp_path, lambda content: content["annotations"][0].update(area=0))
    assert len(dataset.people) == 36
    assert float(dataset.people.area[0]) == pytest.approx(
        BODY_SHARE * 50 * float(dataset.people.boxes[0, 3] - dataset.people.boxes[0, 1])
    )


def test_of_a_point_that_is_not_labelled_x_and_y_may_be_null(drawn_folder: Path, tmp_path: Path) -> None:
    def edit(content: dict[str, Any]) -> None:
        first, second = content["annotations"][:2]
        first["keypoints"][:6] = [None, None, 0, None, None, None]
        second["keypoints"][:3] = [None, 5.0, 2]

    people = loaded(drawn_folder, tmp_path, edit).people
    assert people.labelled[0].tolist() == [False] * 2 + [True] * 15
    assert people.keypoints.isfinite().all()
    assert not people.labelled[1].any()  # a labelled one is somewhere


def test_people_without_ids_are_numbered_and_the_others_keep_theirs(drawn_folder: Path, tmp_path: Path) -> None:
    def edit(content: dict[str, Any]) -> None:
        for number, person in enumerate(content["annotations"]):
            if number % 2:
                del person["id"]
        content["annotations"][0]["id"] = "7f3a"
        content["annotations"].append(content["annotations"][0])  # is there already

    people = loaded(drawn_folder, tmp_path, edit).people
    kept = people.ids[2::2].tolist()
    assert kept == list(range(3, 36, 2))
    assert len(set(people.ids.tolist())) == len(people) == 36


def test_boxes_given_as_two_corners_are_told_by_those_that_stick_out(
    drawn_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def corners(share: float) -> Any:
        def edit(content: dict[str, Any]) -> None:
            for person in content["annotations"][: round(36 * share)]:
                x, y, w, h = person["bbox"]
                person["bbox"] = [x + 30, y + 30, x + w + 30, y + h + 30]

        return edit

    loaded(drawn_folder, tmp_path / "few", corners(0.05))
    assert not caplog.messages
    loaded(drawn_folder, tmp_path / "all", corners(1.0))
    (said,) = [message for message in caplog.messages if "stick out" in message]
    assert said.endswith("by more than a tenth: bbox is x, y, width, height, not two corners")


def crowded(content: dict[str, Any]) -> None:
    """The second person of the first picture is a crowd."""
    crowd = content["annotations"][1]
    crowd.update(iscrowd=1, segmentation={"counts": [5, 3], "size": [128, 160]})


def test_a_crowd_is_neither_to_be_found_nor_background(drawn_folder: Path, tmp_path: Path) -> None:
    dataset = loaded(drawn_folder, tmp_path, crowded)
    assert dataset.people.crowd.tolist() == [False, True] + [False] * 34
    listed = listed_people(dataset)
    assert listed.valid[0].tolist() == [True, False]
    assert listed.ignored[0].tolist() == [False, True]
    task = DetectorTask(RECIPE, dataset, np.zeros(len(dataset.pictures), bool))
    _, targets = task.batch(torch.zeros(4, dtype=torch.int64), RECIPE.stages[0], torch.Generator().manual_seed(0))
    assert targets["valid"].sum() == 4
    assert targets["ignored"].sum() == 4
    places = backgrounds(listed, dataset.pictures.size_wh, torch.zeros(50, dtype=torch.int64), torch.Generator())
    places = places[places.isfinite().all(1)]
    crowd = dataset.people.boxes[1]
    assert len(places)
    assert ((places[:, 2:] <= crowd[:2]) | (places[:, :2] >= crowd[2:])).any(1).all()


def test_who_is_found_in_a_crowd_is_neither_right_nor_wrong(drawn_folder: Path, tmp_path: Path) -> None:
    dataset = loaded(drawn_folder, tmp_path, crowded)
    person, crowd = dataset.people.boxes[:2].numpy()
    inside = crowd - np.array([0, 0, 10, 20])
    beside = crowd + np.array([40, 0, 40, 0])
    found = [(np.stack([person, inside, beside]), np.array([0.9, 0.8, 0.7]))]
    ((boxes, scores),), (listed,) = judged(found, dataset, [0])
    assert listed.tolist() == [person.tolist()]
    assert boxes.tolist() == [person.tolist(), beside.tolist()]
    assert scores.tolist() == [0.9, 0.7]


def test_other_categories_are_left_out_and_counted(
    drawn_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def edit(content: dict[str, Any]) -> None:
        content["categories"] = [{"id": 1, "name": "dog"}, {"id": 7, "name": "Person"}]
        for person in content["annotations"][6:]:
            person["category_id"] = 7

    with caplog.at_level(logging.WARNING):
        assert len(loaded(drawn_folder, tmp_path, edit).people) == 30
    assert "left out: 6 annotations of other categories than people" in caplog.text


def test_repeated_annotations_and_those_of_no_picture_are_left_out_and_counted(
    drawn_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def edit(content: dict[str, Any]) -> None:
        content["annotations"] += content["annotations"][:5]
        for person in content["annotations"][10:13]:
            person["image_id"] = 999

    with caplog.at_level(logging.WARNING):
        assert len(loaded(drawn_folder, tmp_path, edit).people) == 33
    assert "left out: 5 annotations with the id of another" in caplog.text
    assert "left out: 3 annotations of pictures that are not listed" in caplog.text


@pytest.mark.parametrize(("value", "number"), [(3, 3), ("12", 12), (4.0, 4), (4.5, None), ("a", None), (True, None)])
def test_ids_are_whole_numbers_or_their_digits(value: object, number: int | None) -> None:
    assert whole(value) == number


def written(path: Path, **content: Any) -> Path:
    path.write_text(json.dumps({"images": [{"id": 1, "file_name": "1.png"}], "annotations": []} | content))
    return path


def named(*names: str) -> list[dict[str, Any]]:
    return [{"id": 1, "name": "person", "keypoints": list(names)}]


@pytest.mark.parametrize("join", ["-", " ", "_"])
def test_the_words_of_a_keypoints_name_may_be_joined_otherwise(tmp_path: Path, join: str) -> None:
    names = [name.replace("_", join).title() for name in COCO.names]
    people = [{"id": 1, "image_id": 1, "category_id": 1}]
    content = {"annotations": people, "categories": named(*names)}
    assert len(read_annotations(written(tmp_path / "train.json", **content)).people) == 1


@pytest.mark.parametrize("used", [True, False])
def test_boxes_and_skeletons_of_two_categories_are_refused_where_both_are_used(tmp_path: Path, used: bool) -> None:
    people = [{"id": 1, "image_id": 1, "category_id": 1}, {"id": 2, "image_id": 1, "category_id": 2 if used else 1}]
    people[1] |= {"keypoints": [1.0, 2.0, 2.0] * 17}
    body = {"id": 2, "name": "body", "keypoints": list(COCO.names)}
    path = written(tmp_path / "train.json", annotations=people, categories=[{"id": 1, "name": "person"}, body])
    if not used:
        assert len(read_annotations(path).people) == 2
        return
    complaint = "boxes are of category person and keypoints of category body: expected both in each annotation"
    with pytest.raises(DataError, match=complaint):
        read_annotations(path)


@pytest.mark.parametrize("skeleton", [17, list("abcdefghijklmnopq"), None])
def test_skeletons_of_something_else_beside_people_are_no_people(tmp_path: Path, skeleton: object) -> None:
    annotations = [{"id": number, "image_id": 1, "category_id": number} for number in (1, 2)]
    annotations[1] |= {"keypoints": [1.0, 2.0, 2.0] * 17}
    categories = [{"id": 1, "name": "person"}, {"id": 2, "name": "dog", "keypoints": skeleton}]
    path = written(tmp_path / "train.json", annotations=annotations, categories=categories)
    assert [person["id"] for person in read_annotations(path).people] == [1]


def test_a_folder_without_the_split_is_told_what_was_looked_for_and_what_lies_there(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    for name in ("coco.json", "labels/train.json"):
        (tmp_path / name).touch()
    with pytest.raises(DataError) as caught:
        load_dataset(tmp_path, "train")
    wanted = "train.json, annotations/person_keypoints_train2017.json (COCO) or annot/train.json (MPII)"
    assert str(caught.value) == (
        f"{tmp_path}: has no annotations of split train: expected {wanted}; "
        "its JSON files: coco.json, labels/train.json"
    )


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({"images": [{"id": "img_1"}]}, "an image's id must be a whole number, got 'img_1'"),
        ({"images": [{"file_name": "1.png"}]}, "an image's id must be a whole number, got None"),
        ({"images": [{"id": 1}, {"id": "1"}]}, "two images have the id 1"),
        ({"images": [{"id": 10**20}]}, "an image's id must be a whole number, got 100000000000000000000"),
        ({"categories": [{"id": 1, "name": "person", "keypoints": 17}]}, "must be a list of names, got 17"),
        ({"images": {"1": {}}}, "images must be a list of objects"),
        ({"annotations": [3]}, "annotations must be a list of objects"),
        (
            {"categories": named(*COCO.names[::-1])},
            "keypoint 1 is called right_ankle: expected COCO's order, nose here",
        ),
        (
            {"categories": named("snout", *COCO.names[1:])},
            "keypoint 1 is called snout: expected COCO's names, nose here",
        ),
        ({"categories": named(*COCO.names, "tail")}, "category person has 18 keypoints: expected COCO's 17"),
        (
            {"categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}]},
            "none of its categories is called person",
        ),
    ],
)
def test_a_file_that_would_teach_something_wrong_is_refused(
    tmp_path: Path, content: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(DataError) as caught:
        read_annotations(written(tmp_path / "train.json", **content))
    assert str(caught.value).startswith(str(tmp_path / "train.json"))
    assert complaint in str(caught.value)


@pytest.mark.parametrize("text", ["[]", "3", "\xff"])
def test_something_else_than_annotations_is_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "train.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match="train.json: expected a COCO keypoints file"):
        read_annotations(tmp_path / "train.json")


@pytest.mark.parametrize("size", [{"width": None, "height": 5}, {"width": 5}, {"width": "wide", "height": 5}])
def test_a_size_that_says_nothing_is_not_stated(tmp_path: Path, size: dict[str, Any]) -> None:
    images = [{"id": 1, "file_name": "1.png", **size}]
    (entry,) = read_annotations(written(tmp_path / "train.json", images=images)).images
    assert entry == {"id": 1, "file_name": "1.png"}


def test_null_tables_and_one_category_of_any_name_are_no_fault(tmp_path: Path) -> None:
    people = [{"id": 1, "image_id": 1, "category_id": 5}]
    content = {"annotations": people, "categories": [{"id": 2, "name": "pedestrian"}]}
    assert len(read_annotations(written(tmp_path / "train.json", **content)).people) == 1
    assert read_annotations(written(tmp_path / "train.json", annotations=None, categories=None)).people == []


def test_a_detector_without_anybody_to_find_is_refused(drawn_folder: Path, tmp_path: Path) -> None:
    dataset = loaded(drawn_folder, tmp_path, lambda content: content.update(annotations=[]))
    with pytest.raises(DataError, match="a detector learns from people's boxes, and there are none"):
        DetectorTask(RECIPE, dataset, np.zeros(len(dataset.pictures), bool))
