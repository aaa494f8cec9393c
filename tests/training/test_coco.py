"""COCO's folder layout, and our AP against the public evaluator's."""

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from drawn import changed
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from training.coco import find_split, given_box_results, result_entry
from training.datasets import load_dataset
from training.evaluate import COCO_FIGURES, coco_ap, coco_truth


def official_layout(folder: Path, target: Path, images: str = "val2017") -> Path:
    """`folder` as COCO publishes it; its JSON says nothing of sources."""
    (target / "annotations").mkdir(parents=True)
    shutil.copytree(folder / "images", target / images)
    content = json.loads((folder / "val.json").read_text())
    for entry in content["images"]:
        del entry["source"]
    (target / "annotations" / "person_keypoints_val2017.json").write_text(json.dumps(content))
    return target


@pytest.mark.parametrize("images", ["val2017", "images/val2017"])
def test_official_layout_holds_what_ours_holds(drawn_folder: Path, tmp_path: Path, images: str) -> None:
    ours, theirs = (load_dataset(f, "val") for f in (drawn_folder, official_layout(drawn_folder, tmp_path, images)))
    assert set(theirs.sources) == {"coco"}
    assert theirs.people.ids.tolist() == ours.people.ids.tolist()
    assert theirs.people.keypoints.equal(ours.people.keypoints)
    np.testing.assert_array_equal(theirs.pictures.picture(3), ours.pictures.picture(3))


def test_latest_year_is_taken_and_a_year_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    for split in ("train2014", "train2017", "val2017"):
        (tmp_path / "annotations" / f"person_keypoints_{split}.json").touch()
    assert find_split(tmp_path, "train").images == tmp_path / "train2017"
    assert find_split(tmp_path, "train2014").annotations.name == "person_keypoints_train2014.json"
    assert find_split(tmp_path, "test").annotations == tmp_path / "test.json"


def test_a_split_whose_name_begins_as_anothers_is_not_taken_for_it(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    for split in ("train2014", "trainval2017", "valminusminival2014"):
        (tmp_path / "annotations" / f"person_keypoints_{split}.json").touch()
    assert find_split(tmp_path, "train").annotations.name == "person_keypoints_train2014.json"
    assert find_split(tmp_path, "trainval").annotations.name == "person_keypoints_trainval2017.json"
    assert find_split(tmp_path, "val").annotations == tmp_path / "val.json"  # there is none


def hard_truth(random: np.random.Generator) -> dict[str, Any]:
    """30 pictures: people of all sizes, nobody, crowds, people without labels, labels out of the picture."""
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 640, "height": 480} for i in range(1, 31)]
    annotations = []
    for image in images[:-3]:
        for slot in range(int(random.integers(1, 5))):
            x, y, w, h = random.uniform((0, 0, 20, 30), (500, 300, 250, 400))
            points = random.uniform((x, y), (x + w, y + h), (17, 2)) + (random.random() < 0.2) * np.array([300, 0])
            labels = random.integers(0, 3, 17) * (random.random() > 0.15)
            crowd = int(random.random() < 0.15)
            table = np.concatenate([points, labels[:, None]], axis=1) * ((labels > 0) & (not crowd))[:, None]
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image["id"], "category_id": 1, "iscrowd": crowd,
                 "bbox": [x, y, w, h], "area": 0.5 * w * h, "keypoints": table.ravel().tolist(),
                 "num_keypoints": int((table[:, 2] > 0).sum()), "slot": slot, "segmentation": []}
            )  # fmt: skip
    return {"info": {}, "images": images, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]}


def guesses(truth: dict[str, Any], random: np.random.Generator) -> list[dict[str, Any]]:
    """Good and bad guesses, doubles, people out of nowhere, over 20 in one picture; some pictures without any."""
    results = []
    for person in truth["annotations"]:
        if person["image_id"] % 7 == 0:
            continue
        x, y, w, h = person["bbox"]
        points = np.array(person["keypoints"]).reshape(17, 3)[:, :2]
        for _ in range(25 if person["id"] == 1 else int(random.integers(0, 3))):
            moved = np.where(points.any(1, keepdims=True), points, (x + w / 2, y + h / 2))
            moved = moved + random.normal(0, np.sqrt(w * h) * random.choice([0.01, 0.05, 0.3]), (17, 2))
            results.append(result_entry(person["image_id"], moved, np.ones(17), float(random.random())))
    results.append(result_entry(30, np.full((17, 2), -50.0), np.ones(17), 0.99))
    return results


def official_figures(path: Path, results: list[dict[str, Any]], image_ids: list[int]) -> dict[str, float]:
    truth = COCO(str(path))
    evaluation = COCOeval(truth, truth.loadRes(results), "keypoints")
    evaluation.params.imgIds = image_ids
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return dict(zip(COCO_FIGURES, evaluation.stats.tolist(), strict=True))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_every_figure_equals_the_official_evaluators(tmp_path: Path, seed: int, share: float) -> None:
    random = np.random.default_rng(seed)
    truth = hard_truth(random)
    (tmp_path / "val.json").write_text(json.dumps(truth))
    image_ids = [entry["id"] for entry in truth["images"]][: int(30 * share)]
    results = [entry for entry in guesses(truth, random) if entry["image_id"] in image_ids]
    expected = official_figures(tmp_path / "val.json", results, image_ids)
    found = coco_ap(truth, results, image_ids)
    assert 0.05 < expected["AP"] < 0.95
    assert list(found) == list(COCO_FIGURES)
    assert found == pytest.approx(expected, abs=1e-9)


def test_perfect_guesses_in_given_boxes_reach_one(drawn_folder: Path) -> None:
    dataset = load_dataset(drawn_folder, "val")
    people = dataset.people
    results = given_box_results(people.image_ids.tolist(), people.keypoints.numpy(), np.full((len(people), 17), 0.9))
    found = coco_ap(coco_truth(dataset), results, sorted(set(people.image_ids.tolist())))
    assert (found["AP"], found["AR"]) == pytest.approx((1.0, 1.0))
    assert results[0]["score"] == pytest.approx(0.9)


def test_no_figure_depends_on_the_ids_of_annotations(drawn_folder: Path, tmp_path: Path) -> None:
    """To the public evaluator a person of id 0 is one whom no result was matched to."""

    def edit(content: dict[str, Any]) -> None:
        for number, person in enumerate(content["annotations"]):
            person["id"] = number

    found = []
    for folder in (drawn_folder, changed(drawn_folder, tmp_path / "from0", edit)):
        dataset = load_dataset(folder, "train")
        people, random = dataset.people, np.random.default_rng(0)
        guessed = people.keypoints.numpy() + random.normal(0, 3, (len(people), 17, 2))
        results = given_box_results(people.image_ids.tolist(), guessed, np.full((len(people), 17), 0.9))
        found.append(coco_ap(coco_truth(dataset), results, sorted(set(people.image_ids.tolist()))))
    assert int(people.ids[0]) == 0 and 0.2 < found[0]["AP"] < 0.9
    assert found[1] == found[0]


def test_the_public_evaluators_own_lines_stay_out_of_the_log(
    drawn_folder: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = load_dataset(drawn_folder, "val")
    people = dataset.people
    results = given_box_results(people.image_ids.tolist(), people.keypoints.numpy(), np.full((len(people), 17), 0.9))
    with caplog.at_level("INFO"):
        coco_ap(coco_truth(dataset), results, people.image_ids.tolist())
    assert (caplog.messages, capsys.readouterr().out) == ([], "")


def test_nobody_found_is_nothing_reached(drawn_folder: Path) -> None:
    found = coco_ap(coco_truth(load_dataset(drawn_folder, "val")), [], [1, 2, 3])
    assert (found["AP"], found["AR"]) == (0.0, 0.0)


def test_what_the_loader_reads_is_evaluated_as_the_file_is(tmp_path: Path) -> None:
    """Crowds, people without a label, areas and boxes survive; category ids and missing keys do not matter."""
    random = np.random.default_rng(0)
    truth = hard_truth(random)
    for person in truth["annotations"]:
        table = np.clip(np.array(person["keypoints"]).reshape(17, 3), 0, (639, 479, 2))
        person["keypoints"] = table.ravel().tolist()
        if (table[:, 2] > 0).any():  # the loader wants people's keypoints near their box
            low, high = (edge(table[table[:, 2] > 0, :2], axis=0) for edge in (np.min, np.max))
            person["bbox"] = [*low, *(high - low + 1)]
    results = guesses(truth, random)
    image_ids = [entry["id"] for entry in truth["images"]]
    (tmp_path / "images").mkdir()
    for entry in truth["images"]:
        cv2.imwrite(str(tmp_path / "images" / entry["file_name"]), np.zeros((480, 640, 3), np.uint8))
    expected = coco_ap(copy.deepcopy(truth), results, image_ids)
    for person in truth["annotations"]:
        person["category_id"] = 3
        del person["num_keypoints"]
        if not person["iscrowd"]:
            del person["iscrowd"]
    truth["categories"][0]["id"] = 3
    (tmp_path / "val.json").write_text(json.dumps(truth))
    dataset = load_dataset(tmp_path, "val")
    assert len(dataset.people) == len(truth["annotations"])
    assert coco_ap(coco_truth(dataset), results, image_ids) == pytest.approx(expected, abs=1e-3)
