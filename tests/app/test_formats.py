"""The shapes of an answer, of people whose keypoints are known."""

import json

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
