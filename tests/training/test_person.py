"""One annotated person: what may be missing is filled in, and how far off is too far, to the pixel."""

from typing import Any

import numpy as np
import pytest
from drawn import LAYOUT

from training.person import box_fault, completed, keypoints_fault

SIZE_WH = (200, 100)
BOX = [60.0, 20.0, 40.0, 60.0]
POINTS = [number for x, y in LAYOUT * BOX[2:] + BOX[:2] for number in (float(x), float(y), 2)]
OUTSIDE = "its box lies outside the picture"
NO_BOX = "its bbox must be four finite numbers (x, y, width, height), got [60.0, 20.0, 40.0"


def person(**changed: Any) -> dict[str, Any]:
    return completed({"bbox": BOX, "keypoints": POINTS, "area": 900.0} | changed)


def with_points(*points: tuple[float, float, int]) -> dict[str, Any]:
    """Somebody of whom these are the first keypoints, and no others are labelled."""
    rows = [*points, *[(0.0, 0.0, 0)] * (17 - len(points))]
    return person(keypoints=[number for row in rows for number in row])


def test_a_sound_annotation_stays_as_it_is() -> None:
    assert person() == {"bbox": BOX, "keypoints": POINTS, "area": 900.0}
    assert box_fault(person(), SIZE_WH) is keypoints_fault(person(), SIZE_WH) is None


@pytest.mark.parametrize("area", [None, 0])
@pytest.mark.parametrize("write", [float, str])
def test_an_area_that_is_not_given_is_about_half_the_box(area: float | None, write: type) -> None:
    whole = person(bbox=[write(side) for side in BOX], area=area)
    assert whole["area"] == pytest.approx(0.53 * 40 * 60)
    assert box_fault(whole, SIZE_WH) is None


@pytest.mark.parametrize("box", [None, 7, [60.0, 20.0, 40.0], [60.0, 20.0, 40.0, "wide"], [1, 2, 3, 10**400], {}])
def test_of_what_is_no_box_there_is_no_area(box: object) -> None:
    assert person(bbox=box, area=None)["area"] is None


def test_a_crowds_keypoints_are_nobodys() -> None:
    assert person(iscrowd=1)["keypoints"] == [0.0] * 51


@pytest.mark.parametrize(("box", "fault"), [
    ([0.0, 0.0, 1.0, 1.0], None),
    ([0.0, 0.0, 0.9, 50.0], "its box is 0.9 x 50 pixels, its area 900"),
    ([0.0, 0.0, 50.0, 0.9], "its box is 50 x 0.9 pixels, its area 900"),
    ([-39.0, 20.0, 40.0, 60.0], None),
    ([-40.0, 20.0, 40.0, 60.0], OUTSIDE),
    ([199.0, 20.0, 40.0, 60.0], None),
    ([200.0, 20.0, 40.0, 60.0], OUTSIDE),
    ([60.0, -59.0, 40.0, 60.0], None),
    ([60.0, -60.0, 40.0, 60.0], OUTSIDE),
    ([60.0, 99.0, 40.0, 60.0], None),
    ([60.0, 100.0, 40.0, 60.0], OUTSIDE),
    ([60.0, 20.0, 40.0, 10**400], NO_BOX),
    ([60.0, 20.0, 40.0], NO_BOX + "]"),
    (None, "its bbox is missing"),
])  # fmt: skip
def test_a_box_names_somebody_where_a_pixel_of_it_is_in_the_picture(box: list[float], fault: str | None) -> None:
    said = box_fault(person(bbox=box), SIZE_WH)
    assert (said or "").startswith(fault or "") and (said is None) == (fault is None)


@pytest.mark.parametrize(("area", "fault"), [
    (-1.0, "its box is 40 x 60 pixels, its area -1"),
    ([900.0], "its area must be a finite number, got [900.0]"),
    (np.nan, "its area must be a finite number, got nan"),
    ("wide", "its area must be a finite number, got 'wide'"),
])  # fmt: skip
def test_an_area_is_a_positive_number(area: object, fault: str) -> None:
    assert box_fault(person(area=area), SIZE_WH) == fault


@pytest.mark.parametrize("labelled", [1, 2])
@pytest.mark.parametrize(("x", "y", "inside"), [
    (-19, 50, True), (-21, 50, False), (219, 50, True), (221, 50, False),
    (80, -9, True), (80, -11, False), (80, 109, True), (80, 111, False),
])  # fmt: skip
def test_a_labelled_keypoint_may_lie_a_tenth_of_the_picture_outside_it(
    x: float, y: float, inside: bool, labelled: int
) -> None:
    fault = keypoints_fault(with_points((80, 50, 2), (x, y, labelled)), SIZE_WH)
    assert fault == (None if inside else "a labelled one lies far outside the picture")
    assert keypoints_fault(with_points((80, 50, 2), (x, y, 0)), SIZE_WH) is None


@pytest.mark.parametrize(("x", "y", "near"), [
    (41, 50, True), (39, 50, False), (119, 50, True), (121, 50, False),
    (80, -9, True), (80, 95, True), (39, 95, False),
])  # fmt: skip
def test_the_nearest_labelled_keypoint_lies_within_half_a_box_of_it(x: float, y: float, near: bool) -> None:
    """Where a folder's keypoints are of others than its boxes, none does."""
    alone = keypoints_fault(with_points((x, y, 2)), SIZE_WH)
    assert alone == (None if near else "no labelled one is near the box")
    assert keypoints_fault(with_points((x, y, 2), (80, 50, 1)), SIZE_WH) is None


def test_keypoints_none_of_which_is_labelled_are_no_fault() -> None:
    assert keypoints_fault(with_points(), SIZE_WH) is None


@pytest.mark.parametrize(("keypoints", "fault"), [
    ([1.0, 2.0, 2] * 16, "expected 51 keypoint numbers, got 48"),
    ([1.0, np.nan, 2] * 17, "they must be finite numbers (null only where a point is not labelled)"),
    ([np.nan, None, 0] * 17, None),
])  # fmt: skip
def test_keypoints_are_51_finite_numbers_but_where_they_are_not_labelled(
    keypoints: list[Any], fault: str | None
) -> None:
    assert keypoints_fault(person(keypoints=keypoints), SIZE_WH) == fault
