"""Many thin convolutions for the time of a few wide ones: the body of an encoder's level."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.layers import Projection, RepConv

MERGE = ".merge.0.conv.weight"  # how the names of merging kernels end
EVERY = 2  # convolutions after which the chain's features are kept for the end


class CrossStage(nn.Module):
    """(B, channels, H, W) kept: half of the channels pass, half go through `depth` convolutions, all are merged.

    A cross-stage partial network's level (Wang et al., "CSPNet", CVPR Workshops 2020) whose merging layer reads the
    chain at every second convolution, too (Wang et al., "Designing Network Design Strategies Through Gradient Path
    Analysis", 2022). `channels` and `depth` are even.
    """

    def __init__(self, channels: int, depth: int) -> None:
        super().__init__()
        assert channels % 2 == depth % EVERY == 0
        half = channels // 2
        self.passed, self.entry = _pointwise(channels, half), _pointwise(channels, half)
        pairs = (nn.Sequential(*(RepConv(half, half) for _ in range(EVERY))) for _ in range(depth // EVERY))
        self.chain = nn.ModuleList(pairs)
        self.merge = _pointwise((2 + len(self.chain)) * half, channels)

    def forward(self, x: Tensor) -> Tensor:
        kept = [self.passed(x), self.entry(x)]
        for pair in self.chain:
            kept.append(pair(kept[-1]))
        merged: Tensor = self.merge(torch.cat(kept, dim=1))
        return merged


def longer(kernel: Tensor, like: Tensor) -> Tensor:
    """A merging `kernel` (out, in, 1, 1) with zeros for the inputs that `like`, of a longer level, has besides."""
    more = like.shape[1] - kernel.shape[1]
    return F.pad(kernel, (0, 0, 0, 0, 0, more)) if more > 0 else kernel


def _pointwise(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(Projection(in_channels, out_channels), nn.ReLU(inplace=True))
