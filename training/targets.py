"""What the networks are asked to predict: Gaussians at exact, unrounded positions."""

from typing import NamedTuple

import torch
from torch import Tensor


def keypoint_heatmaps(
    keypoints: Tensor, present: Tensor, size_hw: tuple[int, int], stride: int, sigma: float
) -> Tensor:
    """Gaussians (B, K, H/stride, W/stride) of peak 1 around `keypoints` (B, K, 2); zero where not `present` (B, K).

    Keypoints in input pixels, sigma in heatmap cells. The centre is not rounded to a cell (unbiased encoding: DARK,
    Zhang et al., CVPR 2020).
    """
    return bells(keypoints, size_hw, stride, sigma) * present[..., None, None]


def bells(points: Tensor, size_hw: tuple[int, int], stride: int, sigma: float) -> Tensor:
    """Gaussians (..., H/stride, W/stride) of peak 1 around `points` (..., 2) in input pixels; sigma in cells."""
    height, width = size_hw[0] // stride, size_hw[1] // stride
    x, y = (points / stride).unbind(-1)

    def bell(centre: Tensor, length: int) -> Tensor:
        cells = torch.arange(length, device=centre.device) + 0.5
        return torch.exp(-((cells - centre[..., None]) ** 2) / (2 * sigma**2))  # (..., length)

    return bell(y, height)[..., :, None] * bell(x, width)[..., None, :]


class CentreTargets(NamedTuple):
    """Person-centre heatmap (B, 1, H, W), which box each cell regresses (B, H, W, 4), and its weight (B, H, W).

    The weights of one person's cells sum to 1, so that large people do not outweigh small ones.
    """

    heatmaps: Tensor
    boxes: Tensor
    box_weight: Tensor


SPREAD = 0.54 / 6  # sigma of a person's bell, in parts of the box's sides (TTFNet, Liu et al., AAAI 2020)
LEAST_SIGMA = 1.0  # in cells: a narrower bell would teach the box in one cell alone, and every second peak is beside it
REGRESSED = 0.3  # cells whose bell is above this learn the box too: at the least all eight around the centre


def centre_targets(boxes: Tensor, valid: Tensor, size_hw: tuple[int, int], stride: int) -> CentreTargets:
    """Targets of a detector from `boxes` (B, N, 4) xyxy in input pixels, `valid` (B, N) bool."""
    height, width = size_hw[0] // stride, size_hw[1] // stride
    cells = boxes / stride
    centre = (cells[..., :2] + cells[..., 2:]) / 2
    sigma = ((cells[..., 2:] - cells[..., :2]) * SPREAD).clamp_min(LEAST_SIGMA)

    def bell(axis: int, length: int) -> Tensor:
        position = torch.arange(length, device=boxes.device) + 0.5
        # The peak is moved to the nearest cell's centre, so that every person has one cell at exactly 1.
        peak = centre[..., axis].floor() + 0.5
        return torch.exp(-((position - peak[..., None]) ** 2) / (2 * sigma[..., axis, None] ** 2))

    bells = bell(1, height)[..., :, None] * bell(0, width)[..., None, :] * valid[..., None, None]  # (B, N, H, W)
    heatmap, owner = bells.max(dim=1)  # (B, H, W)
    weight = torch.where(heatmap > REGRESSED, heatmap, 0.0)
    B, N = valid.shape
    per_person = torch.zeros(B, N, device=boxes.device).scatter_add_(1, owner.flatten(1), weight.flatten(1))
    weight = weight / per_person.clamp_min(1e-6).gather(1, owner.flatten(1)).view_as(weight)
    owned = boxes.gather(1, owner.flatten(1)[..., None].expand(-1, -1, 4)).view(B, height, width, 4)
    return CentreTargets(heatmap[:, None], owned, weight)


def cells_within(boxes: Tensor, chosen: Tensor, size_hw: tuple[int, int], stride: int) -> Tensor:
    """Which cells (B, 1, H, W) have their centre in one of the `chosen` (B, N) boxes (B, N, 4) xyxy in input pixels."""
    height, width = size_hw[0] // stride, size_hw[1] // stride

    def spans(axis: int, length: int) -> Tensor:
        position = (torch.arange(length, device=boxes.device) + 0.5) * stride
        return (position > boxes[..., axis, None]) & (position < boxes[..., axis + 2, None])  # (B, N, length)

    within = spans(1, height)[..., :, None] & spans(0, width)[..., None, :] & chosen[..., None, None]
    return within.any(1, keepdim=True)
