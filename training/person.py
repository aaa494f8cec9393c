"""One annotated person as people write them: what may be missing is filled in, and what cannot be used is told."""

from typing import Any

import numpy as np

from training.joints import COCO
from training.pictures import Entry

NUM_KEYPOINTS = len(COCO.names)
BODY_SHARE = 0.53  # of a box is a person's area, where it is not given: about COCO's mean
STRAY = 0.5  # of the box's sides: how far outside it the nearest labelled keypoint may lie
MARGIN = 0.1  # of the picture's sides: how far outside it a labelled keypoint may lie


def without_keypoints(annotation: Entry) -> Entry:
    """The annotation as one of a box alone: no keypoint is labelled."""
    return annotation | {"keypoints": [0.0] * (3 * NUM_KEYPOINTS)}


def completed(annotation: Entry) -> Entry:
    """An annotation of a box alone has no labelled keypoint; one without an area (or 0) has BODY_SHARE of its box.

    A crowd's keypoints are nobody's. Of a point that is not labelled x and y may be null or NaN.
    """
    keypoints, area, box = annotation.get("keypoints"), annotation.get("area"), _numbers(annotation.get("bbox"))
    if not keypoints or annotation.get("iscrowd"):
        annotation = without_keypoints(annotation)
    elif isinstance(keypoints, list):
        annotation = annotation | {"keypoints": _in_a_row(keypoints)}
    if not area and box is not None and box.shape == (4,):
        area = float(BODY_SHARE * box[2] * box[3])
    return annotation | {"area": area}


def _in_a_row(keypoints: list[Any]) -> list[Any]:
    """Keypoints, perhaps in rows of three, as one list of numbers."""
    if all(isinstance(point, list) for point in keypoints):
        keypoints = [number for point in keypoints for number in point]
    points = [keypoints[start : start + 3] for start in range(0, len(keypoints), 3)]
    return [
        0.0 if not point[-1] and (number is None or number != number) else number
        for point in points
        for number in point
    ]


def box_fault(annotation: Entry, size_wh: tuple[int, int]) -> str | None:
    """Why a `completed` annotation names nobody in a picture of `size_wh`, or None."""
    given = annotation.get("bbox")
    if given is None:
        return "its bbox is missing"
    box, area = _numbers(given), _numbers(annotation["area"])
    if box is None or box.shape != (4,):
        return f"its bbox must be four finite numbers (x, y, width, height), got {given!r:.60}"
    if area is None or area.ndim:
        return f"its area must be a finite number, got {annotation['area']!r:.60}"
    x, y, w, h = box.tolist()
    if min(w, h) < 1 or area <= 0:
        return f"its box is {w:g} x {h:g} pixels, its area {area:g}"
    if x + w <= 0 or y + h <= 0 or x >= size_wh[0] or y >= size_wh[1]:
        return "its box lies outside the picture"
    return None


def keypoints_fault(annotation: Entry, size_wh: tuple[int, int]) -> str | None:
    """Why the keypoints of a `completed` annotation with a sound box cannot be trained on, or None.

    Labelled ones may lie up to MARGIN outside the picture, and one of them must be near the box.
    """
    keypoints = _numbers(annotation["keypoints"])
    if keypoints is None:
        return "they must be finite numbers (null only where a point is not labelled)"
    if keypoints.shape != (3 * NUM_KEYPOINTS,):
        return f"expected {3 * NUM_KEYPOINTS} keypoint numbers, got {'x'.join(map(str, keypoints.shape))}"
    points = keypoints.reshape(-1, 3)
    points = points[points[:, 2] > 0, :2]
    if not len(points):
        return None
    parts = points / size_wh
    if parts.min() < -MARGIN or parts.max() > 1 + MARGIN:
        return "a labelled one lies far outside the picture"
    box = _numbers(annotation["bbox"])
    assert box is not None  # it is sound
    x, y, w, h = box
    near = np.abs(points - (x + w / 2, y + h / 2)) <= np.array([w, h]) * (0.5 + STRAY)
    return None if near.all(1).any() else "no labelled one is near the box"


def _numbers(value: object) -> np.ndarray | None:
    """`value` as an array, or None where it is not all finite numbers."""
    try:
        numbers = np.array(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        return None
    return numbers if np.isfinite(numbers).all() else None
