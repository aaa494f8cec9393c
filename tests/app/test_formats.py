"""The shapes of an answer, of people whose keypoints are known."""

import json
from dataclasses import replace

import numpy as np

from app import formats
from app.pipeline import Person
from app.skeleton import KEYPOINT_NAMES


def person(x: float, score: float) -> Person:
    """Whose every keypoint is at (x, 5) with `score`."""
    count = len(KEYPOINT_NAMES)
    return Person(0.9, np.float32([0, 0, 10, 10]), np.tile(np.float32([x, 5]), (count, 1)), np.full(count, score))


def test_openpose_leaves_out_points_below_its_renderers_threshold() -> None:
    for score, point in ((0.05, [7, 5, 0.05]), (0.049, [0, 0, 0])):
        (found,) = formats.openpose([person(7, score)])["people"]
        assert found["pose_keypoints_2d"] == point * 18


def test_no_format_has_a_zero_with_a_sign() -> None:
    """Of a point left of the picture that nobody saw, or a thousandth of a pixel outside."""
    for x, score in ((-7, 0.01), (-0.001, 0.9)):
        someone = person(x, score)
        for shaped in (formats.openpose([someone]), formats.coco([someone]), formats.native_person(0, someone)):
            assert "-0.0," not in json.dumps(shaped)


def test_pixels_have_two_decimals_and_scores_four() -> None:
    someone = replace(person(1 / 3, 0.12345678), score=0.87654321)
    native, (row,) = formats.native_person(0, someone), formats.coco([someone])
    assert native["keypoints"][0] == {"name": "nose", "x": 0.33, "y": 5.0, "score": 0.1235}
    assert row["keypoints"] == [0.33, 5.0, 0.1235] * 17
    assert native["score"] == row["score"] == 0.8765


def test_openpose_s_neck_is_as_sure_as_the_shoulder_that_was_seen_less() -> None:
    someone = person(7, 0.9)
    someone.keypoint_scores[KEYPOINT_NAMES.index("right_shoulder")] = 0.3
    (found,) = formats.openpose([someone])["people"]
    assert found["pose_keypoints_2d"][3:6] == [7, 5, 0.3]
