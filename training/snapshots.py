"""Pictures of what a network makes of held-out people, for TensorBoard."""

from collections.abc import Sequence

import cv2
import numpy as np
from torch import Tensor

LINE, DOT = (90, 220, 90), (255, 70, 70)
FAR_AWAY_PX = 1e6  # a young network's boxes may be larger than OpenCV's integers
HEAT_SHARE = 0.55  # of an overlay's colours


def grid(crops: Tensor, marked: Sequence[np.ndarray], heatmaps: Tensor) -> np.ndarray:
    """Two rows of pictures (2 H, N W, 3) uint8: the marked ones, and below them the crops under their heatmaps.

    crops (N, 3, H, W) 0..255; heatmaps (N, H', W') 0..1.
    """
    hot = [overlay(image, heat) for image, heat in zip(pictures(crops), heatmaps.cpu().numpy(), strict=True)]
    return np.concatenate([np.concatenate(list(marked), axis=1), np.concatenate(hot, axis=1)], axis=0)


def pictures(crops: Tensor) -> list[np.ndarray]:
    """Crops (N, 3, H, W) as pictures (H, W, 3) uint8 that may be drawn on."""
    return [crop.permute(1, 2, 0).byte().cpu().numpy().copy() for crop in crops]


def overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """`image` (H, W, 3) under a heatmap of any size, 0..1, blue where it is cold and red where it is hot."""
    scaled = cv2.resize((heat.clip(0, 1) * 255).astype(np.uint8), image.shape[1::-1])
    colours = cv2.applyColorMap(scaled, cv2.COLORMAP_JET)[..., ::-1]
    mixed: np.ndarray = cv2.addWeighted(image, 1 - HEAT_SHARE, colours, HEAT_SHARE, 0)
    return mixed


def draw_skeleton(image: np.ndarray, keypoints: np.ndarray, limbs: Sequence[tuple[int, int]]) -> np.ndarray:
    """`image` with the limbs between `keypoints` (K, 2) drawn into it."""
    places = [(round(float(x)), round(float(y))) for x, y in keypoints]
    for a, b in limbs:
        cv2.line(image, places[a], places[b], LINE, 1, cv2.LINE_AA)
    for place in places:
        cv2.circle(image, place, 2, DOT, -1, cv2.LINE_AA)
    return image


def draw_boxes(image: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """`image` with `boxes` (N, 4) xyxy drawn into it."""
    for x1, y1, x2, y2 in boxes.clip(-FAR_AWAY_PX, FAR_AWAY_PX).round().astype(int).tolist():
        cv2.rectangle(image, (x1, y1), (x2, y2), LINE, 2)
    return image
