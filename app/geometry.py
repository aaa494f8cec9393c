"""Crops and letterboxes as affine maps, one convention for training and serving.

Coordinates are continuous pixels: pixel (column i, row j) covers [i, i+1) x [j, j+1), so its centre is (i+0.5, j+0.5)
and a picture spans [0, width] x [0, height]. In this frame resizing is a pure scaling, with none of the half-pixel bias
that UDP (Huang et al., CVPR 2020) found in common pose pipelines.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

CROP_PADDING = 1.25  # the crop is this much larger than the person's box: room for limbs outside a tight box
SMALLEST_BOX_PX = 1.0  # a found person's box has no shorter side
BORDER_GREY = 114  # what lies outside the picture, in training and in serving alike

Image = NDArray[np.uint8]  # (H, W, 3) RGB
Matrix = NDArray[np.float64]  # (2, 3)
Floats = NDArray[np.float32]


def crop_matrix(box_xyxy: NDArray[np.floating], size_wh: tuple[int, int], padding: float = CROP_PADDING) -> Matrix:
    """Map (2, 3) from picture pixels to the pixels of a crop of `size_wh` that holds the padded box, aspect kept.

    `box_xyxy` is (4,) with x1 < x2 and y1 < y2 in picture pixels; it may reach outside the picture.
    Raises ValueError for an empty or non-finite box.
    """
    x1, y1, x2, y2 = (float(v) for v in box_xyxy)
    if not (np.isfinite([x1, y1, x2, y2]).all() and x2 > x1 and y2 > y1):
        raise ValueError(f"a box needs finite x1 < x2 and y1 < y2, got {x1:g},{y1:g},{x2:g},{y2:g}")
    width, height = size_wh
    scale = min(width / (x2 - x1), height / (y2 - y1)) / padding
    return np.array([[scale, 0.0, width / 2 - scale * (x1 + x2) / 2], [0.0, scale, height / 2 - scale * (y1 + y2) / 2]])


def letterbox_matrix(image_wh: tuple[int, int], size_wh: tuple[int, int]) -> Matrix:
    """Map (2, 3) from picture pixels to a canvas of `size_wh` that holds the whole picture, centred, aspect kept."""
    width, height = image_wh
    return crop_matrix(np.array([0, 0, width, height], dtype=np.float64), size_wh, padding=1.0)


def invert(matrix: Matrix) -> Matrix:
    """The map (2, 3) that undoes `matrix` (2, 3)."""
    inverse = np.linalg.inv(matrix[:, :2])
    return np.concatenate([inverse, -inverse @ matrix[:, 2:]], axis=1)


def transform(points: NDArray[np.floating], matrix: Matrix) -> Floats:
    """Apply `matrix` (2, 3) to `points` (..., 2): x, y in, x, y out."""
    return (points @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)


def warp(image: Image, matrix: Matrix, size_wh: tuple[int, int]) -> Image:
    """Sample `image` (H, W, 3) uint8 through `matrix` (2, 3; picture -> result) into (height, width, 3) uint8.

    A reduction beyond 2x is first averaged down by a whole factor, over the visible part only: plain bilinear sampling
    would skip pixels and hand the network noise. Outside the picture the result is BORDER_GREY.
    """
    width, height = size_wh
    corners = transform(np.array([[0, 0], [width, 0], [0, height], [width, height]]), invert(matrix))
    (x1, y1), (x2, y2) = np.floor(corners.min(0)) - 2, np.ceil(corners.max(0)) + 2
    left, top = max(int(x1), 0), max(int(y1), 0)
    part = image[top : max(int(y2), top), left : max(int(x2), left)]
    if part.size == 0:
        return np.full((height, width, 3), BORDER_GREY, np.uint8)
    matrix = matrix @ np.array([[1, 0, left], [0, 1, top], [0, 0, 1]], dtype=np.float64)
    factor = int(_reduction(matrix))
    if factor >= 2:
        part, from_shrunk = _shrunk(part, factor)
        matrix = matrix @ from_shrunk
    to_centres = matrix.copy()  # OpenCV puts integer coordinates at pixel centres
    to_centres[:, 2] += matrix[:, :2].sum(1) / 2 - 0.5
    border = (BORDER_GREY,) * 3
    result = cv2.warpAffine(part, to_centres, (width, height), flags=cv2.INTER_LINEAR, borderValue=border)
    return np.asarray(result, dtype=np.uint8)


def warp_each(image: Image, matrices: Sequence[Matrix], size_wh: tuple[int, int]) -> list[Image]:
    """`warp` through each of `matrices`."""
    return [warp(image, matrix, size_wh) for matrix in matrices]


def warp_looks(image: Image, matrices: Sequence[Matrix], size_wh: tuple[int, int]) -> list[Image]:
    """`warp` through each of `matrices`, which together show the picture more than once.

    Where even the closest reduces it fourfold or more it is shrunk once for all, to no less than twice what that one
    needs: each is still averaged from there. A single one, or one that reduces less, is `warp`'s to the byte.
    """
    factor = int(min(map(_reduction, matrices))) // 2
    if factor >= 2 and len(matrices) > 1:
        image, from_shrunk = _shrunk(image, factor)
        matrices = [matrix @ from_shrunk for matrix in matrices]
    return warp_each(image, matrices, size_wh)


def _reduction(matrix: Matrix) -> float:
    """Picture pixels a side that become one of the result of `matrix` (2, 3)."""
    return float(1 / np.sqrt(abs(np.linalg.det(matrix[:, :2]))))


def _shrunk(image: Image, factor: int) -> tuple[Image, Matrix]:
    """`image` (H, W, 3) averaged down by a whole factor a side, and the map (3, 3) from there to its own pixels."""
    height, width = (max(side // factor, 1) for side in image.shape[:2])
    shrunk = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    return shrunk, np.diag([image.shape[1] / width, image.shape[0] / height, 1.0])
