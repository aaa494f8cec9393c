"""Draw people into a picture."""

from collections.abc import Iterable

import cv2
import numpy as np

from app.errors import BadParameter
from app.geometry import Image
from app.pipeline import Person
from app.sightings import seen_keypoints
from app.skeleton import KEYPOINT_NAMES, LIMBS

LEFT, RIGHT, MIDDLE = (255, 138, 42), (46, 196, 255), (154, 230, 96)  # RGB; the person's own left and right
OUTLINE = (20, 24, 32)
MAX_JPEG_SIDE_PX = 65_500  # libjpeg's
FILE_SIDES_PX = {".jpg": MAX_JPEG_SIDE_PX, ".jpeg": MAX_JPEG_SIDE_PX, ".png": 2**31 - 1, ".webp": 16_383}  # at most
SUBPIXEL_BITS = 4  # OpenCV draws at 1/16 of a pixel
TINY_PX = 100  # pictures less high get thinner lines without outlines: these would hide the people


def draw(image: Image, people: Iterable[Person]) -> Image:
    """A copy of `image` with each person's skeleton; keypoints that were hardly seen and their limbs are left out.

    Orange is the person's left, blue the right, green the middle; the thickness follows the person's size.
    """
    canvas = np.ascontiguousarray(image.copy())
    outlines = image.shape[0] >= TINY_PX
    thinnest = 2 if outlines else 1
    for person in people:
        thickness = _thickness(person, thinnest)
        seen = seen_keypoints(person.keypoint_scores)
        limbs = [limb for limb in LIMBS if seen[limb[0]] and seen[limb[1]]]
        for extra, only_outline in ((max(2, thickness // 2), True), (0, False))[not outlines :]:
            for start, end in limbs:
                colour = OUTLINE if only_outline else _colour(start, end)
                ends = _fixed(person.keypoints[start]), _fixed(person.keypoints[end])
                cv2.line(canvas, *ends, colour, thickness + extra, cv2.LINE_AA, SUBPIXEL_BITS)
        for index in np.flatnonzero(seen).tolist():
            centre = _fixed(person.keypoints[index])
            radius = max(thinnest, round(thickness * 0.9)) << SUBPIXEL_BITS
            cv2.circle(canvas, centre, radius, _colour(index, index), -1, cv2.LINE_AA, SUBPIXEL_BITS)
            if outlines:
                cv2.circle(canvas, centre, radius, OUTLINE, max(1, thickness // 4), cv2.LINE_AA, SUBPIXEL_BITS)
    return canvas


def check_size(image: Image) -> None:
    """Raises BadParameter for a picture (H, W, 3) that no JPEG file can hold."""
    height, width = image.shape[:2]
    if max(height, width) > MAX_JPEG_SIDE_PX:
        raise BadParameter(f"render=jpeg draws up to {MAX_JPEG_SIDE_PX} pixels a side, got {width} x {height}")


def check_suffix(suffix: str) -> None:
    """Raises BadParameter for the end of a file's name (".jpg") that says no format `to_file` writes."""
    if suffix.lower() not in FILE_SIDES_PX:
        raise BadParameter(f"a drawn picture's name ends in {', '.join(FILE_SIDES_PX)}, not in {suffix!r}")


def to_file(image: Image, suffix: str) -> bytes:
    """`image` (H, W, 3) RGB as a file of the format that `suffix` says. Raises BadParameter where it cannot hold it."""
    check_suffix(suffix)
    height, width = image.shape[:2]
    if max(height, width) > FILE_SIDES_PX[suffix.lower()]:
        most = FILE_SIDES_PX[suffix.lower()]
        raise BadParameter(f"a {suffix} file has up to {most} pixels a side, the picture is {width} x {height}")
    ok, data = cv2.imencode(suffix.lower(), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    assert ok, "OpenCV encodes any RGB picture of a size that the format has"
    return data.tobytes()


def to_jpeg(image: Image, quality: int = 90) -> bytes:
    """`image` (H, W, 3) RGB as a JPEG file."""
    ok, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert ok, "OpenCV encodes any RGB picture that `check_size` lets through"
    return data.tobytes()


def _thickness(person: Person, thinnest: int) -> int:
    width, height = person.box_xyxy[2:] - person.box_xyxy[:2]
    return int(np.clip(max(width, height) / 90, thinnest, 12))


def _colour(start: int, end: int) -> tuple[int, int, int]:
    sides = {KEYPOINT_NAMES[index].partition("_")[0] for index in (start, end)} - {"nose"}
    return {"left": LEFT, "right": RIGHT}[sides.pop()] if len(sides) == 1 else MIDDLE


def _fixed(point: np.ndarray) -> tuple[int, int]:
    """Fixed-point for OpenCV, whose integer coordinates are pixel centres; kept within what its integers hold."""
    x, y = np.clip((np.asarray(point, np.float64) - 0.5) * (1 << SUBPIXEL_BITS), -(2**20), 2**20).round().tolist()
    return int(x), int(y)
