"""A large picture is looked at whole and again in overlapping tiles, so that people who are small in it are found.

Sliced inference (Akyon et al., ICIP 2022).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from app.geometry import SMALLEST_BOX_PX, Floats, Matrix, crop_matrix, invert, transform
from app.overlap import iou
from app.rounds import levels

OVERLAP = 0.2  # of a tile's sides, shared with the next: whoever is smaller is whole in one (reported: see NEAR_EDGE)
REDUCED_LITTLE = 2.0  # picture pixels a pixel of the detector's input: up to here the look at the whole is enough
CLOSEST = 1.5  # the same: the fewest tiles that come so close are the most, as closer ones find little more
NEAR_EDGE = 0.04  # of a tile's sides: a box that ends so near to an edge inside the picture may be somebody cut there
SMALL = 0.25  # of the input's shorter side: who is larger is left to the look at the whole, a tile may show a part
SAME_PERSON_IOU = 0.3  # of boxes from two looks; those of one look are told apart before (app.suppression)

Size = tuple[int, int]  # width, height


@dataclass(frozen=True)
class Look:
    """One look of a detector with an input of `size_wh` at the part `view_xyxy` (4,) of a picture of `image_wh`."""

    view_xyxy: Floats
    image_wh: Size
    size_wh: Size

    @cached_property
    def to_input(self) -> Matrix:
        """Map (2, 3) from picture pixels to the detector's input, which holds the whole part."""
        return crop_matrix(self.view_xyxy, self.size_wh, padding=1.0)

    def people(self, boxes_xyxy: Floats, scores: Floats, min_score: float) -> tuple[Floats, Floats]:
        """Whom the detector's answer shows: boxes (N, 4) in picture pixels, inside the picture, and scores (N,).

        boxes_xyxy (K, 4) are in pixels of its input. Of a tile without those whom it may show in part.
        """
        corners = transform(boxes_xyxy.reshape(-1, 2, 2), invert(self.to_input)).reshape(-1, 4)
        kept = (scores >= min_score) & ~self._perhaps_in_part(corners)
        corners = corners.clip(0, np.tile(np.array(self.image_wh, np.float32), 2))
        kept &= (corners[:, 2:] - corners[:, :2] >= SMALLEST_BOX_PX).all(1)
        return corners[kept], scores[kept]

    def _perhaps_in_part(self, corners: Floats) -> NDArray[np.bool_]:
        """Who (K,) seems to go on beyond an edge that is not the picture's, or is too large to be whole in a tile."""
        inner = (self.view_xyxy > 0) & (self.view_xyxy < np.tile(np.array(self.image_wh, np.float32), 2))
        if not inner.any():
            return np.zeros(len(corners), bool)
        sides = self.view_xyxy[2:] - self.view_xyxy[:2]
        from_edge = (corners - self.view_xyxy) * np.array([1, 1, -1, -1], np.float32)  # inwards
        cut = ((from_edge < NEAR_EDGE * np.tile(sides, 2)) & inner).any(1)
        large_px = SMALL * min(self.size_wh) * reduction(self.image_wh, self.size_wh)
        return np.asarray(cut | ((corners[:, 2:] - corners[:, :2]).max(1) > large_px))


def looks(image_wh: Size, size_wh: Size, tiles: int) -> list[Look]:
    """Where a detector with an input of `size_wh` should look in a picture of `image_wh`: at the whole of it first.

    Then at up to 2 x 2 parts, up to 4 x 4 and so on to tiles x tiles: who is too small for the first and too large to
    be whole in one of the last is seen between. Fewer where the picture is not so large, or is long and narrow.
    """
    views = [(0.0, 0.0, float(image_wh[0]), float(image_wh[1]))]
    reduced = reduction(image_wh, size_wh)
    if reduced > REDUCED_LITTLE:
        for count in levels(min(tiles, math.ceil(_tiles_a_side(reduced / CLOSEST)))):
            closer = 1 + (count - 1) * (1 - OVERLAP)
            sides = [side * reduced / closer for side in size_wh]
            columns, rows = map(_spans, image_wh, sides)
            views += [(x1, y1, x2, y2) for y1, y2 in rows for x1, x2 in columns]
    return [Look(np.array(view, np.float32), image_wh, size_wh) for view in views]


def reduction(image_wh: Size, size_wh: Size) -> float:
    """Picture pixels that a pixel of the input stands for when the whole picture is looked at."""
    return max(side / size for side, size in zip(image_wh, size_wh, strict=True))


def each_once(seen: Sequence[tuple[Floats, Floats]], most: int) -> tuple[Floats, Floats]:
    """Boxes (N, 4) and scores (N,), best first, of the people seen in each look, without whom another shows better.

    `most` of them: a client who asks for every faint find in every tile costs no more than that many comparisons.
    """
    boxes, scores = (np.concatenate(parts) for parts in zip(*seen, strict=True))
    look = np.repeat(np.arange(len(seen)), [len(found) for _, found in seen])
    order = np.argsort(-scores, kind="stable")
    boxes, scores, look = boxes[order], scores[order], look[order]
    left, kept = np.ones(len(boxes), bool), list[int]()
    for row in range(len(boxes)):
        if left[row] and len(kept) < most:
            kept.append(row)
            others = left & (look != look[row])
            left[others] = iou(boxes[others], boxes[row : row + 1])[:, 0] < SAME_PERSON_IOU
    return boxes[kept], scores[kept]


def _tiles_a_side(closer: float) -> float:
    """How many overlapping tiles stand side by side where each shows so many times less than the whole."""
    return (closer - OVERLAP) / (1 - OVERLAP)


def _spans(length: float, side: float) -> list[tuple[float, float]]:
    """Starts and ends of the fewest spans of `side` pixels that cover `length` and overlap by OVERLAP or more."""
    side = min(side, length)
    count = math.ceil(_tiles_a_side(length / side) - 1e-6)
    return [(start, start + side) for start in np.linspace(0, length - side, count).tolist()]
