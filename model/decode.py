"""From heatmaps to keypoints and boxes, in operations that export to ONNX: serving and evaluation share them."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

FLOOR = 1e-3  # heatmap values below this carry no shape: the sub-pixel step sees them as flat
MAX_LOG_SIZE = 5.0  # e**5 cells: wider than any picture, and short of overflow
TEMPERATURE = 0.2  # at which a softmax of heatmaps is a chance for each cell (docs/experiments.md)
TOP_K = 50  # people that a detector can name in one picture
BODY = 0.44  # square root of a person's area, in parts of the height of a crop that the person fills


def decode_expected(
    heatmaps: Tensor, stride: float, sigmas: Sequence[float], shuffle: int = 1
) -> tuple[Tensor, Tensor]:
    """Keypoints (B, K, 2) as x, y in input pixels and scores (B, K) in 0..1 from heatmaps (B, K, H, W), sides even.

    Where the keypoint similarity (OKS) is expected to be the highest, and how high: the heatmap's softmax says how
    likely each cell is, and a bell of `sigmas` (K), as OKS has them, what is gained there by an answer here. Of two
    places, one that has likely ones around it beats a lone peak, and a wide heatmap scores lower than a narrow one
    (Purkrabek and Matas, "ProbPose", CVPR 2025, section 3.2). What an empty heatmap would promise is subtracted: beyond
    the border everything is empty, and of a keypoint that is nowhere nothing is expected.

    Found on a grid of 2 x 2 cells, and between its places as `decode_heatmaps` does. shuffle: above 1, `heatmaps` is
    what a pixel shuffle of that factor would make heatmaps of, (B, K * shuffle**2, H / shuffle, W / shuffle). For a
    factor of 2 nothing is shuffled: each of its places holds one place of the grid.
    """
    if shuffle > 2:
        heatmaps, shuffle = F.pixel_shuffle(heatmaps, shuffle), 1
    rows, columns = (side * shuffle // 2 for side in heatmaps.shape[2:])
    B, K = heatmaps.shape[0], len(sigmas)
    flat = heatmaps.reshape(B, K, -1)  # (B, K, H*W)
    chance = torch.softmax(F.pad(flat / TEMPERATURE, (0, 1)), dim=2)  # a cell more, and empty
    cells, empty = chance[..., :-1], 4 * chance[..., -1, None, None]
    if shuffle == 2:
        places = cells.reshape(B, K, 4, rows, columns).sum(2)  # (B, K, rows, columns)
    else:
        places = cells.reshape(B, K, rows, 2, columns, 2).sum((3, 5))
    reach = 2 * BODY * rows * heatmaps.new_tensor(sigmas).view(-1, 1, 1)  # in places of the grid
    gain_y, gain_x = _bells(reach, rows), _bells(reach, columns)
    expected = gain_y @ (places - empty) @ gain_x.mT
    keypoints, scores = decode_heatmaps(expected, 2 * stride)
    return keypoints - 2 * stride, scores


def _bells(reach: Tensor, length: int) -> Tensor:
    """What an answer at place i - 1 of a row gains if the truth is at j: (K, length + 2, length) for `reach` (K, 1, 1).

    A place more on both sides: a peak in the outermost one has neighbours then.
    """
    answer, truth = (torch.arange(count, device=reach.device) for count in (length + 2, length))
    return torch.exp(-((answer[:, None] - 1 - truth) ** 2) / (2 * reach**2))


def decode_heatmaps(heatmaps: Tensor, stride: float) -> tuple[Tensor, Tensor]:
    """Keypoints (B, K, 2) as x, y in input pixels, and scores (B, K) in 0..1, from heatmaps (B, K, H, W).

    The peak cell is refined by a parabola through the logarithms of it and its neighbours, along x and y: exact for a
    Gaussian (DARK, Zhang et al., CVPR 2020, without its smoothing). Cell i is centred at (i + 0.5) * stride. Beyond
    the border a heatmap is taken to go on as it is there.
    """
    rows, columns = heatmaps.shape[2:]
    flat = heatmaps.flatten(2)  # (B, K, H*W)
    scores, peak = flat.max(dim=2)
    place = peak.float()  # indices in float32, exact to 2**24: ONNX has no short integer division
    y = torch.floor(place / columns)
    x = place - y * columns
    dx, dy = (torch.tensor(steps, device=x.device) for steps in ((-1.0, 0.0, 1.0, 0.0), (0.0, -1.0, 0.0, 1.0)))
    near_x = (x.unsqueeze(2) + dx).clamp(0, columns - 1)  # (B, K, 4)
    near_y = (y.unsqueeze(2) + dy).clamp(0, rows - 1)
    near = flat.gather(2, (near_y * columns + near_x).long()).clamp_min(FLOOR).log()
    here = scores.clamp_min(FLOOR).log().unsqueeze(2)
    before, after = near[..., :2], near[..., 2:]  # (B, K, 2) along x and y
    curvature = (2 * here - before - after).clamp_min(1e-4)
    offset = (0.5 * (after - before) / curvature).clamp(-0.5, 0.5)
    return (torch.stack([x, y], dim=2) + 0.5 + offset) * stride, scores.clamp(0, 1)


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
