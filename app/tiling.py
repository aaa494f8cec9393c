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
from app.rounds import levels, most_looks

OVERLAP = 0.2  # of a tile's sides, shared with the next: whoever is smaller is whole in one (reported: see NEAR_EDGE)
REDUCED_LITTLE = 2.0  # picture pixels a pixel of the detector's input: up to here the look at the whole is enough
CLOSEST = 1.5  # the same: the fewest tiles that come so close are the most, as closer ones find little more
LONG = 2.0  # a picture that is more than so many times as long as wide: of tiles x tiles it would have few
NEAR_EDGE = 0.04  # of a tile's sides: a box that ends so near to an edge inside the picture may be somebody cut there
SMALL = 0.25  # of the input's shorter side: who is larger is left to the look at the whole, a tile may show a part
SAME_PERSON_IOU = 0.3  # of boxes from two looks; those of one look are told apart before (app.suppression)

Size = tuple[int, int]  # width, height
View = tuple[float, float, float, float]  # x1, y1, x2, y2


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
    be whole in one of the last is seen between. Fewer where the picture is not so large, or is narrow.
    """
    views = [(0.0, 0.0, float(image_wh[0]), float(image_wh[1]))]
    if reduction(image_wh, size_wh) > REDUCED_LITTLE:
        views += [part for count in _rounds(image_wh, size_wh, tiles) for part in _parts(image_wh, size_wh, count)]
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


def _rounds(image_wh: Size, size_wh: Size, tiles: int) -> list[int]:
    """Tiles a side in each round after the look at the whole.

    A LONG picture has a single row of them or few: it gets the closest round that tiles * tiles looks suffice for, and
    of the coarser ones, which show little more there, those that the looks left over suffice for.
    """
    enough = math.ceil(_tiles_a_side(reduction(image_wh, size_wh) / CLOSEST))
    if max(image_wh) <= LONG * min(image_wh):
        return levels(min(tiles, enough))
    looks_of = {count: len(_parts(image_wh, size_wh, count)) for count in range(1, min(tiles**2, enough) + 1)}
    rounds, left = list[int](), most_looks(tiles) - 1
    for count in reversed(levels(max(count for count, number in looks_of.items() if number <= tiles**2))):
        if looks_of[count] <= left:
            rounds, left = [count, *rounds], left - looks_of[count]
    return rounds


def _parts(image_wh: Size, size_wh: Size, count: int) -> list[View]:
    """The tiles of a round of `count` a side, from left to right and from the top down."""
    closer = 1 + (count - 1) * (1 - OVERLAP)
    reduced = reduction(image_wh, size_wh)
    columns, rows = (_spans(length, side * reduced / closer) for length, side in zip(image_wh, size_wh, strict=True))
    return [(x1, y1, x2, y2) for y1, y2 in rows for x1, x2 in columns]


def _tiles_a_side(closer: float) -> float:
    """How many overlapping tiles stand side by side where each shows so many times less than the whole."""
    return (closer - OVERLAP) / (1 - OVERLAP)


def _spans(length: float, side: float) -> list[tuple[float, float]]:
    """Starts and ends of the fewest spans of `side` pixels that cover `length` and overlap by OVERLAP or more."""
    side = min(side, length)
    count = math.ceil(_tiles_a_side(length / side) - 1e-6)
    return [(start, start + side) for start in np.linspace(0, length - side, count).tolist()]
