"""What training does with heatmaps: decoding as deployed, decodings to compare it with, and the flip test.

Pixels and cells are areas here (app.geometry), so a mirrored map is exactly the map of the mirrored picture. The shift
by a pixel that other flip tests need, and UDP (Huang et al., CVPR 2020) explains, has no place.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.decode import FLOOR, decode_expected
from model.okdhp import Outputs
from training.joints import JointSet

Decode = Callable[[Tensor, float], tuple[Tensor, Tensor]]
LOG_FLOOR = 1e-10
REACH = 2.0  # cells that the derivatives of `decode_dark` look from the peak, and the farthest it moves


def deployed_decoding(joints: JointSet) -> Decode:
    """What the exported graph does with the heatmaps of a set's keypoints."""
    return partial(decode_expected, sigmas=joints.sigmas)


def flip_back(heatmaps: Tensor, flip_index: Sequence[int]) -> Tensor:
    """Heatmaps (B, K, H, W) of mirrored pictures as those of the pictures: mirrored, left and right exchanged."""
    return heatmaps.flip(3)[:, list(flip_index)]


class FlipTested(nn.Module):
    """A network whose final heatmaps are means over a picture's and its mirror image's; it costs twice as much."""

    def __init__(self, model: nn.Module, flip_index: Sequence[int]) -> None:
        super().__init__()
        self.model, self.flip_index = model, tuple(flip_index)

    def forward(self, images: Tensor) -> Outputs:
        straight: Outputs = self.model(images)
        mirrored: Outputs = self.model(images.flip(3))

        def mean(a: Tensor, b: Tensor) -> Tensor:
            return (a + flip_back(b, self.flip_index)) / 2

        branches = {
            name: branch._replace(final=mean(branch.final, mirrored.branches[name].final))
            for name, branch in straight.branches.items()
        }
        return straight._replace(branches=branches, ensemble=mean(straight.ensemble, mirrored.ensemble))


def decode_heatmaps(heatmaps: Tensor, stride: float) -> tuple[Tensor, Tensor]:
    """Keypoints (B, K, 2) as x, y in input pixels, and scores (B, K) in 0..1, from heatmaps (B, K, H, W).

    The peak cell is refined by a parabola through the logarithms of it and its neighbours, along x and y: exact for a
    Gaussian (DARK, Zhang et al., CVPR 2020, without its smoothing). Cell i is centred at (i + 0.5) * stride. Beyond
    the border a heatmap is taken to go on as it is there.
    """
    return _decoded(heatmaps, stride, _parabola)


def decode_quarter(heatmaps: Tensor, stride: float) -> tuple[Tensor, Tensor]:
    """As `decode_heatmaps`, but a quarter of a cell towards the higher neighbour: what hourglasses came with.

    A peak on the border stays where it is.
    """
    return _decoded(heatmaps, stride, _quarter)


def decode_dark(heatmaps: Tensor, stride: float, kernel: int = 11) -> tuple[Tensor, Tensor]:
    """As `decode_heatmaps`, but DARK in full: heatmaps smoothed, a second-order step in both directions at once.

    kernel: cells, odd; the authors take 11 where the targets' sigma is 2 and 17 where it is 3. A peak within two cells
    of the border stays where it is, and so does one that is no peak of the smoothed map, where the authors' code leaps.
    Zhang et al., CVPR 2020.
    """
    return _decoded(heatmaps, stride, lambda maps, x, y: _newton(smooth(maps, kernel), x, y))


DECODINGS: dict[str, Decode] = {"parabola": decode_heatmaps, "quarter": decode_quarter, "dark": decode_dark}


def smooth(heatmaps: Tensor, kernel: int) -> Tensor:
    """Heatmaps (B, K, H, W) blurred over `kernel` cells, zero outside, each brought back to its highest value."""
    if kernel % 2 == 0 or kernel < 1:
        raise ValueError(f"a smoothing kernel has an odd number of cells, got {kernel}")
    sigma = 0.3 * ((kernel - 1) / 2 - 1) + 0.8  # OpenCV's for more than 9 cells, so the authors'
    steps = torch.arange(kernel, device=heatmaps.device, dtype=heatmaps.dtype) - kernel // 2
    bell = torch.exp(-(steps**2) / (2 * sigma**2))
    bell = bell / bell.sum()
    B, K, H, W = heatmaps.shape
    maps = heatmaps.reshape(B * K, 1, H, W)
    maps = F.conv2d(maps, bell.view(1, 1, 1, kernel), padding=(0, kernel // 2))
    maps = F.conv2d(maps, bell.view(1, 1, kernel, 1), padding=(kernel // 2, 0)).view(B, K, H, W)
    highest = maps.amax((2, 3), keepdim=True).clamp_min(LOG_FLOOR)
    return maps * (heatmaps.amax((2, 3), keepdim=True) / highest)


def _decoded(
    heatmaps: Tensor, stride: float, offsets: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Peak cells (B, K) moved by `offsets(heatmaps, x, y)` (B, K, 2) cells, as keypoints in input pixels; scores."""
    W = heatmaps.shape[3]
    scores, peak = heatmaps.flatten(2).max(dim=2)
    x, y = peak % W, peak // W
    centre = torch.stack([x, y], dim=2).to(heatmaps.dtype) + 0.5
    return (centre + offsets(heatmaps, x, y)) * stride, scores.clamp(0, 1)


def _inside(x: Tensor, y: Tensor, shape: torch.Size, margin: int) -> Tensor:
    """Which cells (B, K) have `margin` neighbours on all sides."""
    H, W = shape[2:]
    return (x >= margin) & (x < W - margin) & (y >= margin) & (y < H - margin)


def _reader(heatmaps: Tensor, x: Tensor, y: Tensor) -> Callable[[int, int], Tensor]:
    """A function of dx, dy that gives each map's value (B, K) so far from its cell; beyond the border, at it."""
    H, W = heatmaps.shape[2:]
    flat = heatmaps.flatten(2)

    def value(dx: int, dy: int) -> Tensor:
        cell = (y + dy).clamp(0, H - 1) * W + (x + dx).clamp(0, W - 1)
        return flat.gather(2, cell.unsqueeze(2)).squeeze(2)

    return value


def _parabola(heatmaps: Tensor, x: Tensor, y: Tensor) -> Tensor:
    value = _reader(heatmaps.clamp_min(FLOOR).log(), x, y)
    before, after = (torch.stack([value(-step, 0), value(0, -step)], dim=2) for step in (1, -1))  # along x and y
    curvature = (2 * value(0, 0).unsqueeze(2) - before - after).clamp_min(1e-4)
    return (0.5 * (after - before) / curvature).clamp(-0.5, 0.5)


def _quarter(heatmaps: Tensor, x: Tensor, y: Tensor) -> Tensor:
    value = _reader(heatmaps, x, y)
    step = torch.stack([value(1, 0) - value(-1, 0), value(0, 1) - value(0, -1)], dim=2).sign() / 4
    return torch.where(_inside(x, y, heatmaps.shape, 1).unsqueeze(2), step, 0.0)


def _newton(heatmaps: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The way (B, K, 2) from each cell to the vertex of the paraboloid through the logarithms around it."""
    value = _reader(heatmaps.clamp_min(LOG_FLOOR).log(), x, y)
    dx, dy = (value(1, 0) - value(-1, 0)) / 2, (value(0, 1) - value(0, -1)) / 2
    dxx = (value(2, 0) - 2 * value(0, 0) + value(-2, 0)) / 4
    dyy = (value(0, 2) - 2 * value(0, 0) + value(0, -2)) / 4
    dxy = (value(1, 1) - value(1, -1) - value(-1, 1) + value(-1, -1)) / 4
    determinant = dxx * dyy - dxy**2
    is_peak = (determinant > 0) & (dxx < 0) & _inside(x, y, heatmaps.shape, int(REACH))
    divisor = torch.where(is_peak, determinant, 1.0)
    offset = torch.stack([(dxy * dy - dyy * dx) / divisor, (dxy * dx - dxx * dy) / divisor], dim=2)
    return torch.where(is_peak.unsqueeze(2), offset, 0.0).clamp(-REACH, REACH)
