"""From heatmaps to keypoints and boxes, in operations that export to ONNX: serving and evaluation share them."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

FLOOR = 1e-3  # values below this, of heatmaps or expectations, carry no shape: the sub-pixel step sees them as flat
MAX_LOG_SIZE = 5.0  # e**5 cells: wider than any picture, and short of overflow
TEMPERATURE = 0.2  # at which a softmax of heatmaps is a chance for each cell (docs/experiments.md)
MAX_LOGIT = 60.0  # of a heatmap that no training brings about: the sum of its exponentials does not overflow
PARABOLA = (  # of logarithms here, left, right, above, below: half the slope along x and y, the curvature along x and y
    (0.0, 0.0, 2.0, 2.0),
    (-0.5, 0.0, -1.0, 0.0),
    (0.5, 0.0, -1.0, 0.0),
    (0.0, -0.5, 0.0, -1.0),
    (0.0, 0.5, 0.0, -1.0),
)
CELLS = 200  # of a detector that are handed on, the surest: a tall person is named by a dozen
BODY = 0.44  # square root of a person's area, in parts of the height of a crop that the person fills


def decode_expected(
    heatmaps: Tensor, stride: float, sigmas: Sequence[float], shuffle: int = 1, temperature: float = TEMPERATURE
) -> tuple[Tensor, Tensor]:
    """Keypoints (B, K, 2) as x, y in input pixels and scores (B, K) in 0..1 from heatmaps (B, K, H, W), sides even.

    Where the keypoint similarity (OKS) is expected to be the highest, and how high: the heatmap's softmax says how
    likely each cell is, and a bell of `sigmas` (K), as OKS has them, what is gained there by an answer here. Of two
    places, one that has likely ones around it beats a lone peak, and a wide heatmap scores lower than a narrow one
    (Purkrabek and Matas, "ProbPose", CVPR 2025, section 3.2). The softmax has a cell more, which is empty, and a cell
    counts by how much likelier than that one it is: beyond the border everything is empty, and of a keypoint that is
    nowhere nothing is expected. (It is put beyond a corner, with a score of 0.)

    Found on a grid of 2 x 2 cells, and between its places. shuffle: above 1, `heatmaps` is what a pixel shuffle of that
    factor would make heatmaps of, (B, K * shuffle**2, H / shuffle, W / shuffle). For a factor of 2 nothing is shuffled:
    each of its places holds one place of the grid. temperature: 1 for heatmaps that were divided by it already.
    """
    if shuffle > 2:
        heatmaps, shuffle = F.pixel_shuffle(heatmaps, shuffle), 1
    rows, columns = (side * shuffle // 2 for side in heatmaps.shape[2:])
    logits = heatmaps if temperature == 1 else heatmaps / temperature
    odds = logits.clamp(max=MAX_LOGIT).exp()  # 1 in an empty cell
    B, K = heatmaps.shape[0], len(sigmas)
    if shuffle == 2:  # four channels hold the four cells of each place
        odds = odds.view(B, K, 4, rows, columns).sum(2)
    else:
        odds = odds.view(B, K, rows, 2, columns, 2).sum((3, 5))
    reach = 2 * BODY * rows * heatmaps.new_tensor(sigmas).view(-1, 1, 1)  # in places of the grid
    gained = _bells(reach, rows) @ (odds - 4) @ _bells(reach, columns).mT  # (B, K, rows + 2, columns + 2)
    return _peaks(gained, odds.sum((2, 3)) + 1, 2 * stride)


def _peaks(gained: Tensor, whole: Tensor, step: float) -> tuple[Tensor, Tensor]:
    """The highest places of a grid (B, K, rows + 2, columns + 2), as keypoints (B, K, 2), and their values, 0..1.

    whole (B, K): what the values are parts of. step: input pixels a place. Refined by a parabola through the logarithms
    of the place and its neighbours, along x and y: exact for a Gaussian. The outermost places have no neighbours of
    their own; the highest value is there only where nothing is expected. A table and a product do the arithmetic:
    beside so small a network each operation's own cost counts.
    """
    height, width = gained.shape[2:]
    flat = gained.flatten(2)
    place = flat.argmax(2, keepdim=True)  # (B, K, 1)
    steps = torch.tensor([0, -1, 1, -width, width], device=gained.device)
    near = flat.gather(2, (place + steps).clamp(0, height * width - 1)) / whole.unsqueeze(2)  # (B, K, 5)
    shape = near.clamp_min(FLOOR).log() @ near.new_tensor(PARABOLA)  # (B, K, 4): slopes along x and y, curvatures
    offset = (shape[..., :2] / shape[..., 2:].clamp_min(1e-4)).clamp(-0.5, 0.5)
    cells = torch.arange(height * width, device=gained.device)
    centres = torch.stack([cells % width, cells // width], dim=1) - 0.5  # (rows * columns, 2), the border left out
    return (centres[place.squeeze(2)] + offset) * step, near[..., 0].clamp(0, 1)


def _bells(reach: Tensor, length: int) -> Tensor:
    """What an answer at place i - 1 of a row gains if the truth is at j: (K, length + 2, length) for `reach` (K, 1, 1).

    A place more on both sides: a peak in the outermost one has neighbours then.
    """
    answer, truth = (torch.arange(count, device=reach.device) for count in (length + 2, length))
    return torch.exp(-((answer[:, None] - 1 - truth) ** 2) / (2 * reach**2))


def boxes_at_cells(boxes: Tensor, stride: float) -> Tensor:
    """Box map (B, 4, H, W) (see DetectorBranch) -> boxes (B, H, W, 4) as x1, y1, x2, y2 in input pixels."""
    H, W = boxes.shape[2:]
    rows = torch.arange(H, device=boxes.device, dtype=boxes.dtype)[:, None] + 0.5
    columns = torch.arange(W, device=boxes.device, dtype=boxes.dtype)[None, :] + 0.5
    centre = torch.stack([boxes[:, 0] + columns, boxes[:, 1] + rows], dim=3)  # (B, H, W, 2)
    half = boxes[:, 2:].permute(0, 2, 3, 1).clamp(max=MAX_LOG_SIZE).exp() / 2
    return torch.cat([centre - half, centre + half], dim=3) * stride


def surest_cells(centres: Tensor, boxes: Tensor, stride: float) -> tuple[Tensor, Tensor]:
    """Boxes (B, K, 4) xyxy in input pixels of the K cells that score highest, and their scores (B, K), best first.

    `centres` (B, 1, H, W) in 0..1. K is CELLS, or all there are. Who is named by several: app.suppression.
    """
    H, W = centres.shape[2:]
    scores, cells = centres.flatten(1).topk(min(CELLS, H * W), dim=1)  # (B, K)
    candidates = boxes_at_cells(boxes, stride).flatten(1, 2)  # (B, H*W, 4)
    return candidates.gather(1, cells.unsqueeze(2).expand(-1, -1, 4)), scores
