import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from training.metrics import (
    iou,
    match_boxes,
    measured,
    oks,
    oks_share,
    outside_crowds,
    recall_and_false_rate,
    recall_at_false_rate,
)


def test_oks_equals_the_official_evaluators(drawn_folder: Path) -> None:
    content = json.loads((drawn_folder / "val.json").read_text())
    annotations = [a for a in content["annotations"] if a["image_id"] == 1][:1]
    truth = COCO()
    truth.dataset = {**content, "annotations": annotations, "images": content["images"][:1], "info": {}}
    truth.createIndex()
    table = np.array(annotations[0]["keypoints"]).reshape(17, 3)
    table[[1, 5], 2] = 0  # not labelled: neither may count
    annotations[0]["keypoints"] = table.ravel().tolist()
    moved = table.copy()
    moved[:, :2] += np.random.default_rng(0).normal(0, 3, (17, 2))
    result = [{"image_id": 1, "category_id": 1, "keypoints": moved.ravel().tolist(), "score": 1.0}]
    evaluation = COCOeval(truth, truth.loadRes(result), "keypoints")
    evaluation._prepare()
    official = float(evaluation.computeOks(1, 1)[0, 0])
    ours = oks(moved[None, :, :2], table[None, :, :2], table[None, :, 2] > 0, np.array([annotations[0]["area"]]))
    assert ours[0] == pytest.approx(official, rel=1e-6)


def test_share_counts_each_threshold_reached() -> None:
    assert oks_share(np.array([1.0])) == 1.0
    assert oks_share(np.array([0.49])) == 0.0
    assert oks_share(np.array([0.72, 0.30])) == pytest.approx(5 / 10 / 2)  # .50 .55 .60 .65 .70 by one of two
    assert np.isnan(oks_share(np.array([])))


def test_few_points_or_a_low_box_are_not_measured() -> None:
    labelled = np.zeros((3, 17), dtype=bool)
    labelled[0, :5] = labelled[1, :4] = labelled[2, :9] = True
    boxes = np.array([[0, 0, 10, 64], [0, 0, 10, 200], [0, 0, 10, 63]])
    assert measured(labelled, boxes).tolist() == [True, False, False]


def test_iou_by_hand() -> None:
    boxes = np.array([[0.0, 0, 2, 2], [1, 0, 3, 2], [5, 5, 6, 6]])
    np.testing.assert_allclose(iou(boxes[:1], boxes), [[1, 1 / 3, 0]])


def test_each_person_is_claimed_once_by_the_best_found_box() -> None:
    listed = np.array([[0.0, 0, 10, 10], [20, 0, 30, 10]])
    found = np.array([[0.0, 0, 10, 9], [0, 0, 10, 10], [21, 0, 30, 10], [50, 50, 60, 60]])
    assert match_boxes(found, listed).tolist() == [0, -1, 1, -1]
    assert match_boxes(found, np.zeros((0, 4))).tolist() == [-1] * 4


def test_recall_is_read_where_the_allowed_false_people_are_used_up() -> None:
    tall, low = [0.0, 0, 50, 100], [200.0, 0, 220, 40]
    listed = [np.array([tall, low]), np.array([tall])]
    elsewhere = [400.0, 400, 450, 500]
    found = [
        (np.array([tall, low, elsewhere]), np.array([0.9, 0.8, 0.7])),
        (np.array([elsewhere, tall]), np.array([0.6, 0.5])),
    ]
    # Half a false person a picture allows one: the one of 0.7. The tall person at 0.5 comes after the second.
    assert recall_at_false_rate(found, listed, rate=0.5) == (0.5, 0.7)
    assert recall_at_false_rate(found, listed, rate=1.0) == (1.0, 0.5)
    assert recall_at_false_rate(found, listed, rate=0.0) == (0.5, 0.8)


def test_a_threshold_has_its_recall_and_its_false_people() -> None:
    box, elsewhere, small = (
        np.array([[0.0, 0, 50, 100]]),
        np.array([[200.0, 0, 250, 100]]),
        np.array([[0.0, 0, 20, 40]]),
    )
    found = [(np.concatenate([box, elsewhere]), np.array([0.9, 0.4])), (small, np.array([0.8]))]
    listed = [box, np.concatenate([small, elsewhere])]
    assert recall_and_false_rate(found, listed, 0.4) == (0.5, 0.5)  # the small one is neither right nor wrong
    assert recall_and_false_rate(found, listed, 0.41) == (0.5, 0.0)
    assert recall_and_false_rate(found, listed, 0.95) == (0.0, 0.0)


def test_whoever_is_found_mostly_in_a_crowd_counts_only_where_somebody_listed_is() -> None:
    crowd = np.array([[100.0, 0, 300, 100]])
    listed = np.array([[110.0, 0, 150, 100]])
    boxes = np.array([[112.0, 0, 152, 100], [76, 0, 116, 100], [84, 0, 124, 100], [200, 0, 240, 100], [0, 0, 40, 100]])
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5])  # listed; two fifths in the crowd, three fifths, all, nothing
    ((kept, confidence),) = outside_crowds([(boxes, scores)], [listed], [crowd])
    assert confidence.tolist() == [0.9, 0.8, 0.5] and np.array_equal(kept, boxes[[0, 1, 4]])
    ((kept, confidence),) = outside_crowds([(boxes, scores)], [np.zeros((0, 4))], [crowd])
    assert confidence.tolist() == [0.8, 0.5] and np.array_equal(kept, boxes[[1, 4]])
    ((kept, confidence),) = outside_crowds([(boxes, scores)], [listed], [np.zeros((0, 4))])
    assert np.array_equal(kept, boxes) and np.array_equal(confidence, scores)
