"""What a teacher sees of every person, asked once: a student learns from it on views that the teacher never saw."""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from training.augment import crop_matrices, inverted, transform_points
from training.checkpoint import keep, kept_for
from training.data import Dataset, identity
from training.targets import bells
from training.teacher import Teacher

PLACES = 3  # of a keypoint that are kept: where it is seen, and where else it might be
LEAST_HEIGHT = 0.05  # of a heatmap, where it names a place
APART = 2  # cells within which a heatmap names one place
BATCH = 64


@dataclass(frozen=True)
class Answers:
    """Of N people: places (N, K, PLACES, 2) in picture pixels, and how high the teacher's heatmap rises there, 0..1.

    heights (N, K, PLACES): the highest first, 0 where there is no such place. identity: the teacher's.
    """

    places: Tensor
    heights: Tensor
    identity: str


def answers_of(teacher: Teacher, dataset: Dataset, device: torch.device, kept: Path) -> Answers:
    """What `teacher` sees in an upright crop around each of `dataset`'s people, of the size that it was trained for.

    A view of a student's may be turned, covered, dark or of another size: places are carried over as annotations are.
    So a heavy teacher is run once a person, not once a crop, as FPD does (Zhang et al., CVPR 2019). What it saw is left
    in the file `kept` for the next start of the run. It is asked in full precision: in bfloat16 neighbouring cells are
    often equal, and a hill has several tops. Raises CheckpointError as `kept_for`.
    """
    known = {"teacher": teacher.identity, **identity(dataset)}
    if found := kept_for(kept, known):
        return Answers(found["places"], found["heights"], teacher.identity)
    people, parts = dataset.people, []
    for rows in tqdm(torch.split(torch.arange(len(people)), BATCH), "teacher", unit="batch", mininterval=0.5):
        matrices = crop_matrices(people.boxes[rows], teacher.size_hw)
        images = dataset.pictures.sample(people.picture[rows], matrices, teacher.size_hw)
        heatmaps = teacher.heatmaps(images.to(device, torch.float32, memory_format=torch.channels_last))
        places, heights = (part.cpu() for part in highest_places(heatmaps, teacher.size_hw[0] / heatmaps.shape[2]))
        parts.append((transform_points(places.flatten(1, 2), inverted(matrices)).view_as(places), heights))
    places, heights = (torch.cat(values) for values in zip(*parts, strict=True))
    keep(kept, known, places=places, heights=heights)
    return Answers(places, heights, teacher.identity)


def highest_places(heatmaps: Tensor, stride: float) -> tuple[Tensor, Tensor]:
    """Places (B, K, PLACES, 2) in input pixels where heatmaps (B, K, H, W) are highest, and heights (B, K, PLACES).

    A place is as high as any within APART cells, and refined by a parabola through the logarithms of it and its
    neighbours, along x and y: exact for a Gaussian.
    """
    width = heatmaps.shape[3]
    around = F.max_pool2d(heatmaps, 2 * APART + 1, 1, APART)
    peaks = torch.where((heatmaps == around) & (heatmaps > LEAST_HEIGHT), heatmaps, 0.0)
    heights, cells = peaks.flatten(2).topk(PLACES, dim=2)  # (B, K, PLACES)
    x, y = cells % width, cells // width
    padded = F.pad(heatmaps, (1, 1, 1, 1), mode="replicate").flatten(2).clamp_min(LEAST_HEIGHT).log()

    def offset(step: int) -> Tensor:
        """Of the peak between its neighbours `step` places before and after it."""
        here = (y + 1) * (width + 2) + x + 1
        before, peak, after = (padded.gather(2, here + by) for by in (-step, 0, step))
        return ((after - before) / 2 / (2 * peak - before - after).clamp_min(1e-4)).clamp(-0.5, 0.5)

    centres = torch.stack([x + 0.5 + offset(1), y + 0.5 + offset(width + 2)], dim=3)
    return centres * stride, heights.clamp(0, 1)


def drawn(places: Tensor, heights: Tensor, size_hw: tuple[int, int], stride: int, sigma: float) -> Tensor:
    """Heatmaps (B, K, H/stride, W/stride) that a teacher of this size would answer with, more or less.

    places (B, K, PLACES, 2) in input pixels, heights (B, K, PLACES). Of each place a bell of its height, as wide as
    annotated ones (`sigma` in cells); where bells meet, the higher.
    """
    heatmaps = places.new_zeros(*places.shape[:2], size_hw[0] // stride, size_hw[1] // stride)
    for place, height in zip(places.unbind(2), heights.unbind(2), strict=True):
        heatmaps = torch.maximum(heatmaps, bells(place, size_hw, stride, sigma) * height[..., None, None])
    return heatmaps
