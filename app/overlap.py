"""How much two boxes, or two poses, are the same: IoU and OKS."""

import numpy as np
from numpy.typing import NDArray

from app.skeleton import OKS_SIGMAS

Array = NDArray[np.float64]


def iou(boxes_xyxy: Array, others_xyxy: Array) -> Array:
    """Intersection over union (N, M), 0..1, of boxes (N, 4) and (M, 4) with x1 < x2, y1 < y2."""
    low = np.maximum(boxes_xyxy[:, None, :2], others_xyxy[None, :, :2])
    high = np.minimum(boxes_xyxy[:, None, 2:], others_xyxy[None, :, 2:])
    shared = (high - low).clip(0).prod(axis=-1)  # (N, M)
    areas, other_areas = ((boxes[:, 2:] - boxes[:, :2]).prod(axis=-1) for boxes in (boxes_xyxy, others_xyxy))
    return np.asarray(shared / np.maximum(areas[:, None] + other_areas - shared, 1e-9))


def oks(keypoints: Array, others: Array, seen: NDArray[np.bool_], size_px: float) -> float:
    """Object keypoint similarity, 0..1, of two poses (17, 2) over the points that are `seen` (17,) in both.

    `size_px` is the square root of the person's area. With no point in common it is 0. After COCO's evaluation code.
    """
    if not seen.any():
        return 0.0
    squared = ((keypoints - others)[seen] ** 2).sum(axis=-1)
    return float(np.exp(-squared / (2 * (2 * OKS_SIGMAS[seen] * size_px) ** 2)).mean())
