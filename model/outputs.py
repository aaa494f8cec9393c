"""What a trunk and a branch hand on; everything in OKDHP is addressed through these names, never by list position."""

from typing import NamedTuple

from torch import Tensor


class TrunkOutput(NamedTuple):
    """What all branches share.

    stem: (B, C, H, W) early feature that feeds the FAU.
    features: feature maps for the branches, coarse to fine or a single one, as the trunk's own branches expect.
    heatmaps: intermediate heatmaps (B, K, H, W) of shared stacks, each supervised; empty where there are none.
    """

    stem: Tensor
    features: tuple[Tensor, ...]
    heatmaps: tuple[Tensor, ...] = ()


class BranchOutput(NamedTuple):
    """What one branch predicts.

    final: (B, K, H, W) the heatmaps that are decoded, distilled and ensembled.
    intermediate: earlier heatmaps (B, K, H, W) of the same branch, each supervised; empty where there are none.
    boxes: (B, 4, H, W) box offsets and sizes of a detector's branch, else None.
    """

    final: Tensor
    intermediate: tuple[Tensor, ...] = ()
    boxes: Tensor | None = None
