"""How much two boxes, or two poses, are the same: IoU, nesting, OKS."""

import numpy as np
from numpy.typing import NDArray

from app.skeleton import OKS_SIGMAS

Array = NDArray[np.float64]
TINY = 1e-9


def iou(boxes_xyxy: Array, others_xyxy: Array) -> Array:
    """Intersection over union (N, M), 0..1, of boxes (N, 4) and (M, 4) with x1 < x2, y1 < y2."""
    shared, areas, other_areas = _shared(boxes_xyxy, others_xyxy)
    return np.asarray(shared / np.maximum(areas + other_areas - shared, TINY))


def nesting(boxes_xyxy: Array, others_xyxy: Array) -> Array:
    """The share (N, M), 0..1, of the smaller box that lies in the larger: 1 for a box inside another."""
    shared, areas, other_areas = _shared(boxes_xyxy, others_xyxy)
    return np.asarray(shared / np.maximum(np.minimum(areas, other_areas), TINY))


def _shared(boxes: Array, others: Array) -> tuple[Array, Array, Array]:
    """Areas of the intersections (N, M), of the boxes (N, 1) and of the others (1, M)."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    areas, other_areas = ((b[:, 2:] - b[:, :2]).prod(axis=-1) for b in (boxes, others))
    return (high - low).clip(0).prod(axis=-1), areas[:, None], other_areas[None]


def oks(
    keypoints: NDArray[np.floating], others: NDArray[np.floating], seen: NDArray[np.bool_], size_px: Array | float
) -> Array:
    """Object keypoint similarity (...), 0..1, of poses (..., 17, 2) to others (..., 17, 2) over the points `seen`.

    `seen` (..., 17), and `size_px` (...), the square root of the person's area. With no point in common it is 0. All
    shapes are broadcast. After COCO's evaluation code.
    """
    squared = ((keypoints - others) ** 2).sum(axis=-1)  # (..., 17)
    spread = 2 * OKS_SIGMAS * np.asarray(size_px)[..., None]
    similarity = np.exp(-squared / (2 * spread**2)) * seen
    return np.asarray(similarity.sum(axis=-1) / np.maximum(seen.sum(axis=-1), 1))
