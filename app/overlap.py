"""How much two boxes, keypoints or poses are the same: IoU, nesting, OKS."""

import numpy as np
from numpy.typing import NDArray

from app.skeleton import OKS_SIGMAS

Array = NDArray[np.float64]
Boxes = NDArray[np.floating]
TINY = 1e-9


def iou(boxes_xyxy: Boxes, others_xyxy: Boxes) -> Array:
    """Intersection over union (N, M), 0..1, of boxes (N, 4) and (M, 4) with x1 < x2, y1 < y2."""
    shared, areas, other_areas = _shared(boxes_xyxy, others_xyxy)
    return np.asarray(shared / np.maximum(areas + other_areas - shared, TINY))


def nesting(boxes_xyxy: Boxes, others_xyxy: Boxes) -> Array:
    """The share (N, M), 0..1, of the smaller box that lies in the larger: 1 for a box inside another."""
    shared, areas, other_areas = _shared(boxes_xyxy, others_xyxy)
    return np.asarray(shared / np.maximum(np.minimum(areas, other_areas), TINY))


def _shared(boxes: Boxes, others: Boxes) -> tuple[Array, Array, Array]:
    """Areas of the intersections (N, M), of the boxes (N, 1) and of the others (1, M)."""
    x1, y1, x2, y2 = np.asarray(boxes).T[:, :, None]  # apart: a last axis of two would take most of the time
    others_x1, others_y1, others_x2, others_y2 = np.asarray(others).T[:, None]
    width = np.minimum(x2, others_x2) - np.maximum(x1, others_x1)
    height = np.minimum(y2, others_y2) - np.maximum(y1, others_y1)
    shared = width.clip(0) * height.clip(0)
    return shared, (x2 - x1) * (y2 - y1), (others_x2 - others_x1) * (others_y2 - others_y1)


def oks(
    keypoints: NDArray[np.floating], others: NDArray[np.floating], seen: NDArray[np.bool_], size_px: Array | float
) -> Array:
    """Object keypoint similarity (...), 0..1, of poses (..., 17, 2) to others (..., 17, 2) over the points `seen`.

    `seen` (..., 17), and `size_px` (...), the square root of the person's area. With no point in common it is 0. All
    shapes are broadcast. After COCO's evaluation code.
    """
    similarity = keypoint_similarity(keypoints, others, size_px) * seen
    return np.asarray(similarity.sum(axis=-1) / np.maximum(seen.sum(axis=-1), 1))


def keypoint_similarity(keypoints: NDArray[np.floating], others: NDArray[np.floating], size_px: Array | float) -> Array:
    """What each keypoint brings to `oks`: (..., 17) in 0..1."""
    squared = ((keypoints - others) ** 2).sum(axis=-1)  # (..., 17)
    spread = 2 * OKS_SIGMAS * np.asarray(size_px)[..., None]
    return np.asarray(np.exp(-squared / (2 * spread**2)))
