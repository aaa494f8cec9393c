"""Learning to mend boxes: regions that a detector proposed, and what a pose network's box head should say of them."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from app.geometry import BORDER_GREY
from model.outputs import Region
from training.augment import random_matrices, uniform
from training.distributed import group_mean
from training.losses import box_iou, giou_loss, overlap_and_union
from training.views import Listed, transform_boxes

NEAR_IOU = 0.3  # a region that overlaps a listed person by less shows nobody in particular
IN_CROWD = 0.5  # share of a region in a crowd from which it is neither right nor wrong
CUT, CUT_AT = 0.15, (0.35, 0.9)  # share of regions that end early, as a webcam's picture does, and where
JITTER, LISTED_JITTER = 0.05, 0.12  # of a region's sides: a detector's boxes err by themselves, listed ones do not


@dataclass(frozen=True)
class Regions:
    """M places to look at: picture (M,) index; boxes (M, 4) xyxy in its pixels; jitter (M,) in parts of their sides."""

    picture: Tensor
    boxes: Tensor
    jitter: Tensor

    def __len__(self) -> int:
        return len(self.picture)


class Wanted(NamedTuple):
    """What is to be said of B regions: boxes (B, 4) in parts of the crop, of those `near` (B,) somebody listed.

    given: (B, 4) the regions themselves. counts (B,): whose fit is known, those in crowds are not. person (B,) who is
    nearest, by row in the dataset.
    """

    boxes: Tensor
    near: Tensor
    given: Tensor
    counts: Tensor
    person: Tensor


class Looks(NamedTuple):
    """B looks at regions: picture (B,); boxes (B, 4) xyxy in its pixels; below `floor` (B,) the picture ends."""

    picture: Tensor
    boxes: Tensor
    floor: Tensor


def random_looks(regions: Regions, rows: Tensor, generator: Generator) -> Looks:
    """At regions moved, stretched and cut at random."""
    boxes, amount = regions.boxes[rows], regions.jitter[rows, None]
    sides, middle = boxes[:, 2:] - boxes[:, :2], (boxes[:, 2:] + boxes[:, :2]) / 2
    middle = middle + torch.randn(len(rows), 2, generator=generator) * amount * sides
    half = sides * (torch.randn(len(rows), 2, generator=generator) * amount).exp() / 2
    boxes = torch.cat([middle - half, middle + half], 1)
    cut = uniform(generator, len(rows), 0, 1) < CUT
    at = uniform(generator, len(rows), *CUT_AT).float()
    floor = torch.where(cut, boxes[:, 1] + at * 2 * half[:, 1], torch.inf)
    return Looks(regions.picture[rows], above(boxes, floor), floor)


def above(boxes: Tensor, floor: Tensor) -> Tensor:
    """What lies above `floor` (...) of boxes (..., 4)."""
    return torch.cat([boxes[..., :3], torch.minimum(boxes[..., 3], floor)[..., None]], -1)


def end_at_floor(crops: Tensor, floor: Tensor, maps: Tensor) -> Tensor:
    """Crops (B, 3, H, W) by upright `maps` (B, 2, 3), in place: what lies below `floor` (B,) is outside the picture."""
    rows = torch.arange(crops.shape[2])
    below = rows >= (maps[:, 1, 1] * floor + maps[:, 1, 2]).nan_to_num(torch.inf)[:, None]
    return crops.masked_fill_(below.to(crops.device)[:, None, :, None], BORDER_GREY)


def mirrored_maps(boxes: Tensor, size_hw: tuple[int, int], generator: Generator) -> Tensor:
    """Maps (B, 2, 3) of the crops around `boxes` (B, 4), half of them mirrored."""
    none, mirrored = torch.zeros(len(boxes), dtype=torch.float64), uniform(generator, len(boxes), 0, 1) < 0.5
    return random_matrices(boxes, size_hw, none + 1, none, none, none, mirrored)


def wanted(listed: Listed, looks: Looks, maps: Tensor, size_hw: tuple[int, int]) -> Wanted:
    """What the head should say of `looks` by `maps` (B, 2, 3)."""
    picture, boxes = looks.picture, looks.boxes
    people, crowds = above(listed.boxes[picture], looks.floor[:, None]), listed.ignored[picture]
    valid = listed.valid[picture] & (people[..., 3] > people[..., 1])
    shared, union = overlap_and_union(boxes[:, None], people)  # (B, N)
    best, whose = torch.where(valid, shared / union.clamp_min(1e-6), 0.0).max(1)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1, keepdim=True)
    crowded = (shared > IN_CROWD * area) & crowds
    near = best >= NEAR_IOU
    both = torch.stack([people[torch.arange(len(boxes)), whose], boxes], 1)
    own, given = (transform_boxes(both, maps) / torch.tensor([size_hw[1], size_hw[0]] * 2)).unbind(1)
    return Wanted(own, near, given, near | ~crowded.any(1), listed.person[picture, whose])


def region_losses(region: Region, targets: dict[str, Tensor]) -> dict[str, Tensor]:
    """Named terms of a batch whose first crops are of regions; their sum is minimised.

    targets: "region/boxes", "region/near" and "region/counts", as Wanted has them; the other crops teach no boxes. What
    the fit should be, the box that was answered says: its IoU.
    """
    boxes, near, counts = (targets[f"region/{name}"] for name in ("boxes", "near", "counts"))
    answered, logits = region.boxes[: len(boxes)], region.fit[: len(boxes)]
    fit = torch.where(near, box_iou(answered.detach(), boxes).clamp(0, 1), 0.0)
    surprise = F.binary_cross_entropy_with_logits(logits, fit, reduction="none")
    return {
        "giou": giou_loss(answered, boxes, near.float()),
        "fit": (surprise * counts).sum() / group_mean(counts.sum().float()).clamp_min(1),
    }
