"""`okdhp evaluate`, and what its figures are of."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commandline import okdhp, refused
from drawn import changed

from app.settings import Settings
from training.data import held_pictures
from training.datasets import load_dataset
from training.evaluate import (
    coco_ap,
    detector_table,
    find_people,
    load_network,
)
from training.pictures import DataError
from training.served import boxes_and_scores, coco_results, serve


def evaluated(trained: Path, folder: Path, split: str) -> str:
    """What is printed of the trained pair."""
    networks = ("--pose", trained / "pose.onnx", "--detector", trained / "detector.onnx")
    return okdhp("evaluate", "--data", folder, "--split", split, *networks)


def test_evaluate_prints_a_row_for_each_source_and_the_whole_pipeline(trained: Path, drawn_folder: Path) -> None:
    said = evaluated(trained, drawn_folder, "val")
    assert "coco" in said
    assert "all" in said
    assert "recall" in said
    assert f"at the default POSE_MIN_SCORE of {Settings.model_fields['min_score'].default:g}" in said
    assert "AP" in said


def test_evaluate_says_which_of_the_service_s_settings_it_does_not_understand(
    trained: Path, drawn_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks = ("--pose", trained / "pose.onnx", "--detector", trained / "detector.onnx")
    monkeypatch.setenv("POSE_MAX_PEEPLE", "3")
    assert refused("evaluate", "--data", drawn_folder, *networks) == "okdhp: unknown setting POSE_MAX_PEEPLE"


def test_evaluate_measures_the_whole_pipeline_on_a_folder_that_names_no_source(
    trained: Path, drawn_folder: Path, tmp_path: Path
) -> None:
    def edit(content: dict[str, Any]) -> None:
        for entry in content["images"]:
            del entry["source"]

    said = evaluated(trained, changed(drawn_folder, tmp_path / "mine", edit), "train")
    assert "24 pictures" in said
    assert "AP " in said


def test_evaluate_measures_the_detector_where_only_boxes_are_annotated(
    trained: Path, drawn_folder: Path, tmp_path: Path
) -> None:
    def edit(content: dict[str, Any]) -> None:
        for person in content["annotations"]:
            del person["keypoints"]

    said = evaluated(trained, changed(drawn_folder, tmp_path / "boxes", edit), "train")
    assert "poses are not measured" in said
    assert "24 pictures" in said
    assert "AP" not in said


def test_where_nobody_is_annotated_nothing_is_measured(trained: Path, drawn_folder: Path, tmp_path: Path) -> None:
    folder = changed(drawn_folder, tmp_path / "empty", lambda content: content.update(annotations=[]))
    networks = ("--pose", trained / "pose.onnx", "--detector", trained / "detector.onnx")
    said = refused("evaluate", "--data", folder, "--split", "train", *networks)
    assert said == f"okdhp: {folder}: nobody is annotated in split train"


def test_where_nobody_is_tall_enough_no_recall_is_printed(trained: Path, drawn_folder: Path, tmp_path: Path) -> None:
    def edit(content: dict[str, Any]) -> None:
        for person in content["annotations"]:
            person["bbox"][3] = 60

    said = evaluated(trained, changed(drawn_folder, tmp_path / "small", edit), "train")
    assert "nobody here is tall enough to be found: detectors are not measured" in said
    assert "recall" not in said


@pytest.mark.parametrize("file", ["absent.onnx", "pose/last.pt", "pose.json"])
def test_what_is_no_network_is_not_evaluated(trained: Path, drawn_folder: Path, file: str) -> None:
    with pytest.raises(DataError, match="not a network that okdhp export wrote"):
        load_network(trained / file)


def test_perfect_results_have_an_ap_of_one(drawn_folder: Path) -> None:
    content = json.loads((drawn_folder / "val.json").read_text())
    results = [
        {"image_id": a["image_id"], "category_id": 1, "keypoints": a["keypoints"], "score": 1.0}
        for a in content["annotations"]
    ]
    ids = [image["id"] for image in content["images"]]
    assert coco_ap(content, results, ids)["AP"] == pytest.approx(1.0)
    halved = coco_ap(content, results[: len(results) // 2], ids)
    assert halved["AR"] == pytest.approx(0.5)


def test_found_boxes_are_in_the_pictures_own_pixels(trained: Path, drawn_folder: Path) -> None:
    dataset = load_dataset(drawn_folder, "val")
    network = load_network(trained / "detector.onnx")
    boxes, scores = find_people(network, dataset, [0])[0]
    assert (np.diff(scores) <= 0).all()
    centre = (boxes[0, :2] + boxes[0, 2:]) / 2
    assert ((centre > 0) & (centre < dataset.pictures.size_wh[0].numpy())).all()
    table = detector_table(network, dataset)
    assert 0 <= table["recall_at_0.3_false"] <= 1


def test_the_service_itself_is_what_is_evaluated(trained: Path, drawn_folder: Path) -> None:
    dataset = load_dataset(drawn_folder, "val")
    held = np.flatnonzero(held_pictures(dataset.image_ids, 0.1)).tolist()  # there the detector's threshold finds some
    served = serve(trained / "pose.onnx", trained / "detector.onnx", dataset, held)
    image_ids = dataset.image_ids[held].tolist()
    entries = coco_results(served, image_ids)
    assert {entry["image_id"] for entry in entries} == set(image_ids)
    assert all(len(entry["keypoints"]) == 51 for entry in entries)
    for (boxes, scores), people in zip(boxes_and_scores(served), served, strict=True):
        assert boxes.shape == (len(people), 4)
        assert (np.diff(scores) <= 0).all()
