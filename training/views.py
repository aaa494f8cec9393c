"""Random views of whole pictures, a batch at a time: who can be seen in them, and where nobody is."""

import math
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from training.augment import crop_matrices, random_matrices, transform_points, uniform
from training.config import Augment
from training.data import Dataset
from training.joints import COCO
from training.pictures import Pictures

MIN_SIDE_PX = 8  # of a training person in the network's input: nobody smaller is asked for, nor called background
MIN_VISIBLE = 0.3  # share of a box that a view must keep for the person to count, unless the head is in view
HEAD = 5  # COCO's first keypoints: nose, eyes and ears
MIN_HEAD_POINTS = 2  # labelled ones tell where a head is
PLACES = 8  # tried to find one where nobody is
CLOSE_UP_MIN_PX = 100  # longer side of the box of whom a close-up is made: from less it is a blur


class Listed(NamedTuple):
    """The people of P pictures, padded to N, the largest number in one.

    boxes (P, N, 4) xyxy in picture pixels; heads (P, N, 2) the mean of the labelled face points, NaN where not known;
    valid (P, N) which are real; ignored (P, N) which are crowds, that nobody counted. person (P, N) their rows in the
    dataset, 0 where there is nobody.
    """

    boxes: Tensor
    heads: Tensor
    valid: Tensor
    ignored: Tensor
    person: Tensor


class Seen(NamedTuple):
    """The people in B views: boxes (B, N, 4) xyxy in the view's pixels, cut to it; which are to be found, valid (B, N).

    ignored (B, N): who is too small, or of whom too little is in view, to call them found or not; and crowds.
    """

    boxes: Tensor
    valid: Tensor
    ignored: Tensor


def listed_people(dataset: Dataset) -> Listed:
    """Every picture's people."""
    people = dataset.people
    count = torch.bincount(people.picture, minlength=len(dataset.pictures))
    filled = torch.arange(int(count.max()))[None] < count[:, None]
    boxes = torch.tensor([0.0, 0.0, 1.0, 1.0]).repeat(*filled.shape, 1)
    heads, crowd = torch.full((*filled.shape, 2), math.nan), torch.zeros_like(filled)
    person = torch.zeros(filled.shape, dtype=torch.int64)
    order = people.picture.argsort(stable=True)
    boxes[filled], crowd[filled], person[filled] = people.boxes[order], people.crowd[order], order
    if dataset.joints == COCO:  # other joint sets have no face
        heads[filled] = _heads(people.keypoints, people.labelled)[order]
    return Listed(boxes, heads, filled & ~crowd, crowd, person)


def _heads(keypoints: Tensor, labelled: Tensor) -> Tensor:
    face = labelled[:, :HEAD, None]
    count = face.sum(1)
    mean = (keypoints[:, :HEAD] * face).sum(1) / count.clamp_min(1)
    return torch.where(count >= MIN_HEAD_POINTS, mean, math.nan)


def letterboxes(pictures: Pictures, rows: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Maps (B, 2, 3) from whole pictures to the network's input."""
    wh = pictures.size_wh[rows]
    return crop_matrices(torch.cat([torch.zeros_like(wh), wh], 1), size_hw, padding=1.0)


def random_letterboxes(
    sizes_wh: Tensor, size_hw: tuple[int, int], scales: tuple[float, float], config: Augment, generator: Generator
) -> Tensor:
    """Maps (B, 2, 3) of whole pictures (B, 2), scaled within `scales`, shifted, slightly turned, mirrored or not."""
    B, wh = len(sizes_wh), sizes_wh.double()
    low, high = (math.log(scale) for scale in scales)
    scale = uniform(generator, B, low, high).exp()
    room = (scale - 1).abs() / 2 + 0.1
    shift_x, shift_y = (uniform(generator, B, -1, 1) * room for _ in range(2))
    whole = torch.cat([torch.zeros_like(wh), wh], 1)
    return random_matrices(whole, size_hw, scale, *_turns(B, config, generator, shift_x, shift_y), padding=1.0)


def close_ups(listed: Listed, rows: Tensor, size_hw: tuple[int, int], config: Augment, generator: Generator) -> Tensor:
    """Maps (B, 2, 3) in which head and shoulders of the largest person of each picture fill the view, as at a webcam.

    NaN where nobody's head is known, or nobody is large enough.
    """
    B, boxes = len(rows), listed.boxes[rows]
    sides = (boxes[..., 2:] - boxes[..., :2]).amax(2)
    usable = listed.valid[rows] & listed.heads[rows].isfinite().all(2) & (sides >= CLOSE_UP_MIN_PX)
    side, largest = torch.where(usable, sides, 0.0).max(1)
    head = listed.heads[rows, largest].double()
    half = side * uniform(generator, B, math.log(0.5), math.log(1.2)).exp() / 2
    shift_x, shift_y = uniform(generator, B, -0.25, 0.25), uniform(generator, B, -0.35, 0.1)
    square = torch.cat([head - half[:, None], head + half[:, None]], 1)
    one = torch.ones(B, dtype=torch.float64)
    maps = random_matrices(square, size_hw, one, *_turns(B, config, generator, shift_x, shift_y), padding=1.0)
    return torch.where((side > 0)[:, None, None], maps, math.nan)


def _turns(
    B: int, config: Augment, generator: Generator, shift_x: Tensor, shift_y: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Angles, the shifts given and who is mirrored, as `random_matrices` takes them."""
    angle = uniform(generator, B, -1, 1) ** 3 * config.rotation_deg / 3
    return angle, shift_x, shift_y, uniform(generator, B, 0, 1) < config.flip


def backgrounds(listed: Listed, sizes_wh: Tensor, rows: Tensor, generator: Generator) -> Tensor:
    """A box (B, 4) xyxy of a standing person's shape in each of the pictures `rows` (B,) where nobody is listed.

    sizes_wh (P, 2) of all pictures. NaN where PLACES random ones all hold a part of somebody.
    """
    B = len(rows)
    wh = sizes_wh[rows].float()[:, None]  # (B, 1, 2)

    def draw(low: float, high: float) -> Tensor:
        return uniform(generator, B * PLACES, low, high).float().view(B, PLACES, 1)

    height = draw(0.2, 0.9) * wh[..., 1:]
    sides = torch.cat([height * draw(0.4, 0.9), height], 2)
    low = torch.cat([draw(0, 1), draw(0, 1)], 2) * (wh - sides).clamp_min(0)
    places = torch.cat([low, torch.minimum(low + sides, wh)], 2)  # (B, PLACES, 4)
    people = listed.boxes[rows][:, None]  # (B, 1, N, 4)
    listed_here = (listed.valid | listed.ignored)[rows][:, None]  # (B, 1, N)
    shared = torch.minimum(places[:, :, None, 2:], people[..., 2:]) - torch.maximum(
        places[:, :, None, :2], people[..., :2]
    )
    free = ~((shared.clamp_min(0).prod(-1) > 0) & listed_here).any(2)  # (B, PLACES)
    chosen = places[torch.arange(B), free.float().argmax(1)]
    return torch.where(free.any(1, keepdim=True), chosen, math.nan)


def seen_people(listed: Listed, rows: Tensor, matrices: Tensor, size_hw: tuple[int, int]) -> Seen:
    """Who of the pictures `rows` (B,) can be seen in their views by `matrices` (B, 2, 3)."""
    boxes, valid = transform_boxes(listed.boxes[rows], matrices), listed.valid[rows]
    limit = torch.tensor([size_hw[1], size_hw[0]] * 2)
    cut = torch.minimum(boxes.clamp_min(0), limit)
    sides = cut[..., 2:] - cut[..., :2]
    whole = (boxes[..., 2:] - boxes[..., :2]).prod(-1).clamp_min(1e-6)
    kept = sides.clamp_min(0).prod(-1) / whole
    heads = transform_points(listed.heads[rows], matrices)
    head_seen = ((heads > 0) & (heads < limit[:2])).all(-1)  # never where it is not known: NaN is neither
    enough = (kept > MIN_VISIBLE) | head_seen
    large = (sides.amin(-1) > 2) & (sides.amax(-1) > MIN_SIDE_PX)
    in_view, found = sides.amin(-1) > 0, large & enough
    return Seen(cut, in_view & valid & found, in_view & (listed.ignored[rows] | (valid & ~found)))


def transform_boxes(boxes: Tensor, matrices: Tensor) -> Tensor:
    """Upright boxes (B, N, 4) around the mapped ones; slight turns use the mid-points of the sides, which grow less."""
    x1, y1, x2, y2 = boxes.unbind(2)
    middle_x, middle_y = (x1 + x2) / 2, (y1 + y2) / 2
    sides = torch.stack([x1, middle_y, x2, middle_y, middle_x, y1, middle_x, y2], 2)
    B, N = boxes.shape[:2]
    points = transform_points(sides.view(B, N * 4, 2), matrices).view(B, N, 4, 2)
    return torch.cat([points.amin(2), points.amax(2)], dim=2)


def mosaic(crops: Tensor, seen: Seen, partial: Tensor, half: tuple[int, int]) -> tuple[Tensor, Seen, Tensor]:
    """Four quarter pictures (4B, 3, h, w) side by side in one (B, 3, 2h, 2w), their people moved along.

    Of which quarters (4B,) are `partial`, it is said where they are: (B, 2, 2).
    """
    height, width = half
    top, bottom = (torch.cat(pair, 3) for pair in (crops.chunk(4)[:2], crops.chunk(4)[2:]))
    shifts = torch.tensor([[0, 0], [width, 0], [0, height], [width, height]]).repeat(1, 2)
    moved = torch.cat([part + shift for part, shift in zip(seen.boxes.chunk(4), shifts, strict=True)], 1)
    valid, ignored = (torch.cat(which.chunk(4), 1) for which in (seen.valid, seen.ignored))
    return torch.cat([top, bottom], 2), Seen(moved, valid, ignored), partial.view(2, 2, -1).permute(2, 0, 1)
