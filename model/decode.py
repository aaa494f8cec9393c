"""From heatmaps to keypoints and boxes, in operations that export to ONNX: serving and evaluation share them."""

import torch
import torch.nn.functional as F
from torch import Tensor

FLOOR = 1e-3  # heatmap values below this carry no shape: the sub-pixel step sees them as flat
MAX_LOG_SIZE = 5.0  # e**5 cells: wider than any picture, and short of overflow


def decode_heatmaps(heatmaps: Tensor, stride: float) -> tuple[Tensor, Tensor]:
    """Keypoints (B, K, 2) as x, y in input pixels, and scores (B, K) in 0..1, from heatmaps (B, K, H, W).

    The peak cell is refined by a parabola through the logarithms of it and its neighbours, along x and y: exact for a
    Gaussian (DARK, Zhang et al., CVPR 2020, without its smoothing). Cell i is centred at (i + 0.5) * stride.
    """
    H, W = heatmaps.shape[2:]
    flat = heatmaps.flatten(2)  # (B, K, H*W)
    scores, peak = flat.max(dim=2)
    x, y = peak % W, peak // W
    here = scores.clamp_min(FLOOR).log()

    def offset(position: Tensor, length: int, step: int) -> Tensor:
        """The parabola's vertex, in cells from the peak; beyond the border the heatmap is taken as FLOOR."""

        def neighbour(shift: int) -> Tensor:
            inside = (position + shift >= 0) & (position + shift < length)
            value = flat.gather(2, torch.where(inside, peak + shift * step, peak).unsqueeze(2)).squeeze(2)
            return torch.where(inside, value, FLOOR).clamp_min(FLOOR).log()

        before, after = neighbour(-1), neighbour(1)
        curvature = (2 * here - before - after).clamp_min(1e-4)
        return (0.5 * (after - before) / curvature).clamp(-0.5, 0.5)

    refined_x = x.to(heatmaps.dtype) + 0.5 + offset(x, W, 1)
    refined_y = y.to(heatmaps.dtype) + 0.5 + offset(y, H, W)
    return torch.stack([refined_x, refined_y], dim=2) * stride, scores.clamp(0, 1)


def boxes_at_cells(boxes: Tensor, stride: float) -> Tensor:
    """Box map (B, 4, H, W) (see DetectorBranch) -> boxes (B, H, W, 4) as x1, y1, x2, y2 in input pixels."""
    H, W = boxes.shape[2:]
    rows = torch.arange(H, device=boxes.device, dtype=boxes.dtype)[:, None] + 0.5
    columns = torch.arange(W, device=boxes.device, dtype=boxes.dtype)[None, :] + 0.5
    centre = torch.stack([boxes[:, 0] + columns, boxes[:, 1] + rows], dim=3)  # (B, H, W, 2)
    half = boxes[:, 2:].permute(0, 2, 3, 1).clamp(max=MAX_LOG_SIZE).exp() / 2
    return torch.cat([centre - half, centre + half], dim=3) * stride


def decode_centres(centres: Tensor, boxes: Tensor, stride: float, top_k: int) -> tuple[Tensor, Tensor]:
    """Boxes (B, top_k, 4) xyxy in input pixels and their scores (B, top_k), best first.

    `centres` (B, 1, H, W) in 0..1. Cells that are not the maximum of their 3x3 neighbourhood get score 0 (CenterNet).
    """
    peaks = centres * (F.max_pool2d(centres, 3, stride=1, padding=1) == centres).to(centres.dtype)
    scores, cells = peaks.flatten(1).topk(top_k, dim=1)  # (B, top_k)
    candidates = boxes_at_cells(boxes, stride).flatten(1, 2)  # (B, H*W, 4)
    return candidates.gather(1, cells.unsqueeze(2).expand(-1, -1, 4)), scores
