"""Random views of training pictures, a whole batch at a time: affine maps first, then light and cover."""

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from app.geometry import CROP_PADDING
from training.config import Augment
from training.joints import COCO, JointSet

HALF_BODY_MIN_POINTS = 4  # fewer labelled points do not tell where a half body is
HALF_BODY_MARGIN = 1.4


def uniform(generator: Generator, size: int, low: float, high: float) -> Tensor:
    """(size,) float64 in [low, high)."""
    return torch.rand(size, generator=generator, dtype=torch.float64) * (high - low) + low


def crop_matrices(boxes: Tensor, size_hw: tuple[int, int], padding: float = CROP_PADDING) -> Tensor:
    """`app.geometry.crop_matrix` for a batch: boxes (B, 4) xyxy -> maps (B, 2, 3) float64, picture -> crop."""
    none = torch.zeros(len(boxes), dtype=torch.float64)
    return random_matrices(boxes, size_hw, none + 1, none, none, none, none.bool(), padding)


def random_matrices(
    boxes: Tensor,
    size_hw: tuple[int, int],
    scale: Tensor,
    angle_deg: Tensor,
    shift_x: Tensor,
    shift_y: Tensor,
    mirrored: Tensor,
    padding: float = CROP_PADDING,
) -> Tensor:
    """Maps (B, 2, 3) float64 from picture to crop: box centred, then scaled, rotated, mirrored and shifted.

    scale (B,) > 1 makes the person larger; shifts (B,) are in parts of the crop's sides.
    """
    height, width = size_hw
    x1, y1, x2, y2 = boxes.double().unbind(1)
    zoom = torch.minimum(width / (x2 - x1), height / (y2 - y1)) / padding * scale
    cos, sin = torch.cos(torch.deg2rad(angle_deg)) * zoom, torch.sin(torch.deg2rad(angle_deg)) * zoom
    sign = torch.where(mirrored, -1.0, 1.0).double()
    linear = torch.stack([torch.stack([sign * cos, -sign * sin], 1), torch.stack([sin, cos], 1)], 1)  # (B, 2, 2)
    centre = torch.stack([x1 + x2, y1 + y2], 1)[:, :, None] / 2
    target = torch.stack([(0.5 + shift_x) * width, (0.5 + shift_y) * height], 1)[:, :, None]
    return torch.cat([linear, target - linear @ centre], dim=2)


def transform_points(points: Tensor, matrices: Tensor) -> Tensor:
    """Points (B, N, 2) through maps (B, 2, 3): (B, N, 2), float32."""
    return (points.double() @ matrices[:, :, :2].transpose(1, 2) + matrices[:, None, :, 2]).float()


def inverted(matrices: Tensor) -> Tensor:
    """The maps (B, 2, 3) that undo `matrices`."""
    linear = torch.linalg.inv(matrices[:, :, :2])
    return torch.cat([linear, -linear @ matrices[:, :, 2:]], dim=2)


def half_bodies(
    boxes: Tensor, keypoints: Tensor, labelled: Tensor, chosen: Tensor, upper: Tensor, joints: JointSet = COCO
) -> Tensor:
    """Where `chosen` (B,), the box (B, 4) of the upper (`upper` (B,)) or lower half's labelled points instead.

    Webcams show people cut at chest or hips; hardly any training picture does.
    """
    part = torch.zeros(len(boxes), len(joints.names), dtype=torch.bool)
    part[:, list(joints.upper)] = upper[:, None]
    part[:, list(joints.lower)] = ~upper[:, None]
    part &= labelled
    low = torch.where(part[..., None], keypoints, math.inf).amin(1)
    high = torch.where(part[..., None], keypoints, -math.inf).amax(1)
    centre, half = (low + high) / 2, (high - low).amax(1, keepdim=True) / 2 * HALF_BODY_MARGIN
    usable = chosen & (part.sum(1) >= HALF_BODY_MIN_POINTS) & (half[:, 0] > 8)
    return torch.where(usable[:, None], torch.cat([centre - half, centre + half], 1), boxes)


def person_crops(
    boxes: Tensor,
    keypoints: Tensor,
    labelled: Tensor,
    size_hw: tuple[int, int],
    config: Augment,
    generator: Generator,
    joints: JointSet = COCO,
) -> tuple[Tensor, Tensor]:
    """Random crops around people: maps (B, 2, 3) and which of them mirror (B,) bool."""
    B = len(boxes)
    halved = uniform(generator, B, 0, 1) < config.half_body
    boxes = half_bodies(boxes, keypoints, labelled, halved, uniform(generator, B, 0, 1) < 0.7, joints)
    largest = math.log(1 + config.scale)
    angle = torch.where(
        uniform(generator, B, 0, 1) < config.rotation,
        uniform(generator, B, -config.rotation_deg, config.rotation_deg),
        0.0,
    )
    mirrored = uniform(generator, B, 0, 1) < config.flip
    matrices = random_matrices(
        boxes,
        size_hw,
        uniform(generator, B, -largest, largest).exp(),
        angle,
        uniform(generator, B, -config.shift, config.shift),
        uniform(generator, B, -config.shift, config.shift),
        mirrored,
    )
    return matrices, mirrored


def photometric(images: Tensor, config: Augment, generator: Generator) -> Tensor:
    """Images (B, 3, H, W), float 0..255, in other light: gain, colour cast, contrast, darkness, noise and blur."""
    B, device = len(images), images.device

    def draw(low: float, high: float, channels: int = 1) -> Tensor:
        values = torch.rand(B, channels, 1, 1, generator=generator) * (high - low) + low
        return values.to(device, non_blocking=True)

    cast = 1 + draw(-0.3, 0.3, 3) * config.colour
    gain = torch.where(draw(0, 1) < config.low_light, draw(0.15, 0.5), 1 + draw(-1, 1) * config.colour) * cast
    pivot = draw(80, 160)
    contrast = 1 + draw(-1, 1) * config.colour
    saturation = torch.where(draw(0, 1) < 0.4 * config.colour, 0.0, 1 + draw(-1, 1) * config.colour)
    # All of it is one linear map of the colours, and applied at once: each pass over a batch of pictures costs time.
    grey = torch.full((3, 3), 1 / 3, device=device)
    mixed = torch.lerp(grey, torch.eye(3, device=device), saturation.view(B, 1, 1))  # (B, 3, 3)
    colours = mixed * (gain * contrast).view(B, 1, 3)
    offset = pivot * (1 - contrast)
    flat = images.permute(0, 2, 3, 1).flatten(1, 2)  # (B, H*W, 3)
    flat = torch.baddbmm(offset.view(B, 1, 1), flat, colours.transpose(1, 2))
    images = flat.view(B, *images.shape[2:], 3).permute(0, 3, 1, 2)
    blurred = (torch.rand(B, generator=generator) < config.blur).nonzero().flatten().to(device, non_blocking=True)
    if len(blurred):
        images[blurred] = F.avg_pool2d(images[blurred], 3, 1, 1, count_include_pad=False)
    noisy = (torch.rand(B, generator=generator) < config.noise).nonzero().flatten().to(device, non_blocking=True)
    if len(noisy):
        grain = torch.randn(len(noisy), *images.shape[1:], generator=_beside(device, generator), device=device)
        images[noisy] += grain * draw(4, 20)[noisy]
    return images.clamp_(0, 255)


def _beside(device: torch.device, generator: Generator) -> Generator:
    """`generator`, or on a GPU one there that follows from it: numbers for whole pictures are not carried over."""
    if device.type == "cpu":
        return generator
    seed = int(torch.randint(2**62, (), generator=generator))
    return Generator(device).manual_seed(seed)


def occlude(images: Tensor, config: Augment, generator: Generator) -> Tensor:
    """Cover a random rectangle of some images (B, 3, H, W), in place, with the same part of another of the batch."""
    B, _, H, W = images.shape
    covered = (uniform(generator, B, 0, 1) < config.occlusion).nonzero().flatten()
    centre_x, centre_y = uniform(generator, B, 0, W)[covered], uniform(generator, B, 0, H)[covered]
    half_w, half_h = uniform(generator, B, 0.05, 0.2)[covered] * W, uniform(generator, B, 0.05, 0.2)[covered] * H
    columns = (torch.arange(W)[None] - centre_x[:, None]).abs() < half_w[:, None]  # (covered, W)
    rows = (torch.arange(H)[None] - centre_y[:, None]).abs() < half_h[:, None]  # (covered, H)
    covered, rows, columns = (values.to(images.device, non_blocking=True) for values in (covered, rows, columns))
    mask = (rows[:, :, None] & columns[:, None, :])[:, None]
    images[covered] = torch.where(mask, images[covered - 1], images[covered])
    return images
