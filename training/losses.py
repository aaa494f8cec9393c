"""Loss terms, each a scalar over a batch; every one has a slow, obvious twin in the tests.

Each is a sum over a divisor, and the divisor is of the whole batch where several processes share it (`group_mean`).
"""

import math
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from training.distributed import group_mean

NOBODY = 0.01  # a lower quality is nobody's


class Heatmaps:
    """Heatmaps (B, K, H, W), and what they say of where each keypoint is: a softmax over all pixels at `temperature`.

    Softmax and sums are taken when first asked for, and once: annotation and ensemble teach every branch, and passes
    over heatmaps are a fair part of what training costs on a CPU.
    """

    def __init__(self, maps: Tensor, temperature: float) -> None:
        self.maps, self.temperature = maps.float(), temperature

    def at(self, temperature: float) -> "Heatmaps":
        """The same maps at `temperature`: where that is their own these very ones, with what was taken of them."""
        return self if temperature == self.temperature else Heatmaps(self.maps, temperature)

    @cached_property
    def log_p(self) -> Tensor:
        """Log-probability of each pixel, (B, K, H*W)."""
        return torch.log_softmax(self.maps.flatten(2) / self.temperature, dim=2)

    @cached_property
    def p(self) -> Tensor:
        """Probability of each pixel, (B, K, H*W)."""
        return self.log_p.exp()

    @cached_property
    def negative_entropy(self) -> Tensor:
        """Sum of p log p over the pixels, (B, K)."""
        return (self.p * self.log_p).sum(2)

    @cached_property
    def energy(self) -> Tensor:
        """Sum of squares over the pixels, (B, K)."""
        return self.maps.square().sum((2, 3))


def heatmap_mse(heatmaps: Heatmaps, target: Heatmaps, weight: Tensor) -> Tensor:
    """Squared error of heatmaps (B, K, H, W), keypoints weighted by (B, K), relative to the target's energy.

    Predicting zero everywhere costs exactly 1 whatever the resolution and sigma, so that weights carry over between
    stages of training.
    """
    return soft_mse(heatmaps, target, target, weight)


def soft_mse(student: Heatmaps, teacher: Heatmaps, target: Heatmaps, weight: Tensor) -> Tensor:
    """Squared distance of heatmaps (B, K, H, W) to a teacher's, weighted by (B, K), in parts of the target's energy.

    The scale of heatmap_mse, and not the teacher's own energy, which vanishes while it has learnt nothing yet.
    """
    error = F.mse_loss(student.maps, teacher.maps, reduction="none").sum((2, 3)) * weight
    return error.sum() / group_mean((target.energy * weight).sum()).clamp_min(1.0)


def pixelwise_kl(student: Heatmaps, teacher: Heatmaps, weight: Tensor) -> Tensor:
    """KL(teacher || student) of the heatmaps' softmax over all pixels, mean over keypoints (OKDHP eq. 5).

    student, teacher (B, K, H, W) at one temperature; weight (B, K). Normalised per counted keypoint, not per pixel: the
    authors' further division by H*W makes the term all but vanish. Detaching the teacher is the caller's choice.
    """
    divergence = teacher.negative_entropy - (teacher.p * student.log_p).sum(2)  # (B, K)
    return (divergence * weight).sum() / group_mean(weight.sum()).clamp_min(1.0)


def falling(fraction: float) -> float:
    """From 1 to 0 along a cosine, as `fraction` goes from 0 to 1."""
    return 0.5 * (1 + math.cos(math.pi * fraction))


def ramp_up(progress: float) -> float:
    """Consistency ramp exp(-5 (1 - t)^2) for t = 0..1, then 1 (Laine and Aila, ICLR 2017; OKDHP section 3.3)."""
    return math.exp(-5.0 * (1.0 - min(max(progress, 0.0), 1.0)) ** 2)


def quality_focal(heatmaps: Tensor, target: Tensor, overlap: Tensor, negative_weight: Tensor) -> Tensor:
    """Quality focal loss of centre scores (B, 1, H, W), per person (Li et al., NeurIPS 2020, eq. 2; beta 2).

    A score shall be the person's bell in `target` times `overlap` (B, H, W), the IoU of the box predicted there: whom
    the network would put into a bad box ranks low, and every cell near a centre teaches, not only one a person.
    negative_weight, broadcast to (B, 1, H, W): below 1 where somebody may be who is not annotated.
    """
    p = heatmaps.float().clamp(1e-4, 1 - 1e-4)
    quality = target * overlap.detach()[:, None]
    weight = torch.where(quality > NOBODY, 1.0, negative_weight)
    loss = F.binary_cross_entropy(p, quality, reduction="none") * (quality - p).square() * weight
    return loss.sum() / group_mean((target > 0.999).sum().float()).clamp_min(1.0)


def giou_loss(boxes: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """1 - generalised IoU of boxes (..., 4) xyxy, weighted mean (Rezatofighi et al., CVPR 2019)."""
    overlap, union = overlap_and_union(boxes, target)
    hull = (torch.maximum(boxes[..., 2:], target[..., 2:]) - torch.minimum(boxes[..., :2], target[..., :2])).prod(-1)
    giou = overlap / union.clamp_min(1e-6) - (hull - union) / hull.clamp_min(1e-6)
    return ((1 - giou) * weight).sum() / group_mean(weight.sum()).clamp_min(1.0)


def box_iou(boxes: Tensor, target: Tensor) -> Tensor:
    """Intersection over union of each box (..., 4) xyxy with its own target."""
    overlap, union = overlap_and_union(boxes, target)
    return overlap / union.clamp_min(1e-6)


def overlap_and_union(boxes: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Areas that each box (..., 4) xyxy shares with its own target, and covers together with it."""
    left_top = torch.maximum(boxes[..., :2], target[..., :2])
    right_bottom = torch.minimum(boxes[..., 2:], target[..., 2:])
    overlap = (right_bottom - left_top).clamp_min(0).prod(-1)
    union = (boxes[..., 2:] - boxes[..., :2]).prod(-1) + (target[..., 2:] - target[..., :2]).prod(-1) - overlap
    return overlap, union
