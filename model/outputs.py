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


class Region(NamedTuple):
    """What a pose branch's box head says of the region that it was given: a crop around a person, or around nobody.

    boxes: (B, 4) x1, y1, x2, y2 of the person, in parts of the crop's sides; may reach outside.
    fit: (B,) logits of how well that box will fit a person (IoU, 0 where nobody is).
    """

    boxes: Tensor
    fit: Tensor


class BranchOutput(NamedTuple):
    """What one branch predicts.

    final: (B, K, H, W) the heatmaps that are decoded, distilled and ensembled.
    intermediate: earlier heatmaps (B, K, H, W) of the same branch, each supervised; empty where there are none.
    boxes: (B, 4, H, W) box offsets and sizes of a detector's branch, else None.
    region: what a pose branch's box head says, None without one.
    """

    final: Tensor
    intermediate: tuple[Tensor, ...] = ()
    boxes: Tensor | None = None
    region: Region | None = None
