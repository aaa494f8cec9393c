"""From heatmaps to keypoints and boxes, in operations that export to ONNX: serving and evaluation share them."""

import torch
import torch.nn.functional as F
from torch import Tensor

FLOOR = 1e-3  # heatmap values below this carry no shape: the sub-pixel step sees them as flat
MAX_LOG_SIZE = 5.0  # e**5 cells: wider than any picture, and short of overflow


def decode_heatmaps(heatmaps: Tensor, stride: float, shuffle: int = 1) -> tuple[Tensor, Tensor]:
    """Keypoints (B, K, 2) as x, y in input pixels, and scores (B, K) in 0..1, from heatmaps (B, K, H, W).

    The peak cell is refined by a parabola through the logarithms of it and its neighbours, along x and y: exact for a
    Gaussian (DARK, Zhang et al., CVPR 2020, without its smoothing). Cell i is centred at (i + 0.5) * stride. Beyond
    the border a heatmap is taken to go on as it is there.

    shuffle: above 1, `heatmaps` is what a pixel shuffle of that factor would make heatmaps of, (B, K * shuffle**2,
    H / shuffle, W / shuffle): peaks are found without the shuffled copy, which takes a CPU as long as a convolution.
    """
    channels, rows, columns = heatmaps.shape[1:]
    flat = heatmaps.reshape(-1, channels // shuffle**2, shuffle**2 * rows * columns)  # (B, K, H*W)
    scores, peak = flat.max(dim=2)
    part, place = _divmod(peak.float(), rows * columns)  # indices in float32: ONNX has no short integer division
    (row, column), (below, right) = _divmod(place, columns), _divmod(part, shuffle)
    x, y = column * shuffle + right, row * shuffle + below  # (B, K) cells
    dx, dy = (torch.tensor(steps, device=x.device) for steps in ((-1.0, 0.0, 1.0, 0.0), (0.0, -1.0, 0.0, 1.0)))
    near_x = (x.unsqueeze(2) + dx).clamp(0, columns * shuffle - 1)  # (B, K, 4)
    near_y = (y.unsqueeze(2) + dy).clamp(0, rows * shuffle - 1)
    (row, below), (column, right) = _divmod(near_y, shuffle), _divmod(near_x, shuffle)
    place = ((below * shuffle + right) * rows + row) * columns + column
    near = flat.gather(2, place.long()).clamp_min(FLOOR).log()
    here = scores.clamp_min(FLOOR).log().unsqueeze(2)
    before, after = near[..., :2], near[..., 2:]  # (B, K, 2) along x and y
    curvature = (2 * here - before - after).clamp_min(1e-4)
    offset = (0.5 * (after - before) / curvature).clamp(-0.5, 0.5)
    return (torch.stack([x, y], dim=2) + 0.5 + offset) * stride, scores.clamp(0, 1)


def _divmod(numbers: Tensor, divisor: int) -> tuple[Tensor, Tensor]:
    """Whole quotients and remainders of whole numbers 0..2**22 in float32, exact in that range."""
    if divisor == 1:
        return numbers, torch.zeros_like(numbers)
    quotient = torch.floor(numbers / divisor)
    return quotient, numbers - quotient * divisor


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
