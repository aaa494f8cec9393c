"""What `okdhp evaluate` prints, of networks whose answers are known."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny
from commandline import okdhp
from drawn import annotation
from serving import picture

from training.data import held_pictures
from training.datasets import load_dataset
from training.evaluate import load_network, measure_poses

BOX = (10, 8, 34, 80)  # xyxy
SEEN, UNSEEN, NOT_LISTED = range(3), 3, 4  # pictures of white rectangles, but for one that is dark


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five pictures with one person each, of whom one is not listed; the pose network is right about three of four."""
    folder = tmp_path_factory.mktemp("known")
    tiny.make_pose(folder / "pose.onnx")
    tiny.make_detector(folder / "detector.onnx")
    (folder / "images").mkdir()
    images, x1, y1 = [], BOX[0], BOX[1]
    for number in range(5):
        shown = picture(boxes=() if number == UNSEEN else (BOX,))
        cv2.imwrite(str(folder / "images" / f"{number}.png"), shown)
        images.append({"id": number, "file_name": f"{number}.png", "width": 120, "height": 90, "source": "coco"})
    size = (BOX[2] - x1, BOX[3] - y1)
    people = [annotation(n + 1, n, (x1, y1, *size), np.full((17, 2), 20.0)) for n in (*SEEN, UNSEEN)]
    content = {"images": images, "annotations": people, "categories": [{"id": 1, "name": "person"}]}
    (folder / "val.json").write_text(json.dumps(content))
    answered = measure_poses(load_network(folder / "pose.onnx"), load_dataset(folder, "val")).keypoints
    for person, points in zip(people[:3], answered[:3], strict=True):
        person["keypoints"] = np.concatenate([points, np.full((17, 1), 2.0)], axis=1).ravel().tolist()
    people[3]["keypoints"] = [x1 + 1.0, y1 + 1.0, 2.0] * 17
    (folder / "val.json").write_text(json.dumps(content))
    return folder


def test_evaluate_prints_each_figure_beside_its_name(folder: Path) -> None:
    """Those of another network on other people do not stand beside these."""
    said = okdhp("evaluate", "--data", folder, "--pose", folder / "pose.onnx", "--detector", folder / "detector.onnx")
    lines = [line.rstrip() for line in said.splitlines()]
    for line in (
        "coco             4    0.750",
        "all              4    0.750",
        "score      0.80",
        "right      0.75",
        "points       68   mean gap 0.050",
        "recall 0.750 at score 0.900, 5 pictures",
        "recall 0.750 at 0.3 false people a picture, from person scores of 0.720 on",
        "recall 0.750 with 0.20 false people a picture at the default POSE_MIN_SCORE of 0.18",
    ):
        assert line in lines, said


def test_evaluate_takes_so_many_pictures_or_those_held_out_where_asked(folder: Path) -> None:
    options = ("--data", folder, "--pose", folder / "pose.onnx", "--detector", folder / "detector.onnx")
    assert "at score 0.900, 2 pictures" in okdhp("evaluate", *options, "--limit", 2)
    held = int(held_pictures(np.arange(5), 0.5).sum())
    assert 0 < held < 5 and f"at score 0.900, {held} pictures" in okdhp("evaluate", *options, "--held-out", 0.5)
