"""Learning where people are in whole pictures: batches, loss terms and evaluation."""

import numpy as np
import torch
from torch import Generator, Tensor

from model.decode import boxes_at_cells, decode_centres
from model.okdhp import OKDHP, Outputs
from model.student import DecoderConfig, DetectorBranch, Encoder, EncoderConfig
from training.augment import crop_matrices, occlude, photometric, random_matrices, transform_points, uniform
from training.config import Recipe, Stage
from training.data import Dataset
from training.distillation import soft_loss, soft_targets
from training.losses import Heatmaps, centre_focal, giou_loss
from training.metrics import recall_at_false_rate
from training.pictures import Pictures
from training.rows import student_of
from training.snapshots import draw_boxes, grid, pictures
from training.targets import centre_targets

MIN_SIDE_PX = 8  # of a training person in the network's input: nobody smaller is asked for
MIN_VISIBLE = 0.3  # share of a box that a random view must keep for the person to count
PARTIAL_SOURCES = ("lspet",)  # pictures in which only one of possibly several people is annotated
PARTIAL_NEGATIVE_WEIGHT = 0.2  # what lies unannotated there may still be a person
PARTIAL_EVERY = 3  # and they are easy, so every third is enough
TOP_K = 50
SHOWN, DRAWN_SCORE = 6, 0.3  # held-out pictures drawn for TensorBoard, and people in them


def build_model(recipe: Recipe) -> OKDHP:
    """The multi-branch network of a detector recipe, freshly initialised."""
    encoder = EncoderConfig(recipe.encoder.widths, recipe.encoder.depths)
    branches = {
        branch.name: DetectorBranch(DecoderConfig(branch.widths, branch.depth), encoder) for branch in recipe.branches
    }
    return OKDHP(Encoder(encoder), branches, 1, recipe.fau)


class DetectorTask:
    """Everything the training loop asks about finding people."""

    score_name = "recall_at_0.3_false"

    def __init__(self, recipe: Recipe, dataset: Dataset, held_pictures: np.ndarray) -> None:
        self.recipe, self.pictures = recipe, dataset.pictures
        self.boxes, self.valid = padded_boxes(dataset)
        self.partial = torch.from_numpy(np.isin(dataset.sources, PARTIAL_SOURCES))
        every = np.arange(len(self.pictures)) % PARTIAL_EVERY == 0
        self.train = torch.from_numpy(np.flatnonzero(~held_pictures & (every | ~self.partial.numpy())))
        complete = ~np.isin(dataset.sources, PARTIAL_SOURCES)
        self.held = torch.from_numpy(np.flatnonzero(held_pictures & (complete if complete.any() else True)))

    def __len__(self) -> int:
        return len(self.train)

    def build(self) -> OKDHP:
        return build_model(self.recipe)

    def batch(self, rows: Tensor, stage: Stage, generator: Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Augmented pictures (B, 3, H, W) float 0..255, by chance mosaics of four, and the boxes in them."""
        config, size, pictures = self.recipe.augment, (stage.height, stage.width), self.train[rows]
        if uniform(generator, 1, 0, 1).item() < config.mosaic:
            others = torch.randint(len(self.train), (3 * len(rows),), generator=generator)
            tiles = torch.cat([pictures, self.train[others]])
            half = (stage.height // 2, stage.width // 2)
            crops, boxes, valid = self._views(tiles, half, generator, (0.7, 1.6))
            crops, boxes, valid = mosaic(crops, boxes, valid, half)
            partial = self.partial[tiles].view(4, -1).any(0)
        else:
            crops, boxes, valid = self._views(pictures, size, generator, (0.35, 1.4))
            partial = self.partial[pictures]
        images = occlude(photometric(crops.float(), config, generator), config, generator)
        targets = {"boxes": boxes, "valid": valid, "partial": partial}
        return images, {name: value.to(images.device) for name, value in targets.items()}

    def _views(
        self, pictures: Tensor, size: tuple[int, int], generator: Generator, scales: tuple[float, float]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Randomly scaled, shifted, slightly turned and mirrored letterboxes: crops, boxes (B, N, 4), valid (B, N)."""
        B, config = len(pictures), self.recipe.augment
        wh = self.pictures.size_wh[pictures].double()
        whole = torch.cat([torch.zeros_like(wh), wh], 1)
        low, high = (float(np.log(scale)) for scale in scales)
        scale = uniform(generator, B, low, high).exp()
        room = (scale - 1).abs() / 2 + 0.1
        shift_x, shift_y = (uniform(generator, B, -1, 1) * room for _ in range(2))
        angle = uniform(generator, B, -1, 1) ** 3 * config.rotation_deg / 3
        mirrored = uniform(generator, B, 0, 1) < config.flip
        matrices = random_matrices(whole, size, scale, angle, shift_x, shift_y, mirrored, padding=1.0)
        crops = self.pictures.sample(pictures, matrices, size)
        boxes, valid = visible_boxes(transform_boxes(self.boxes[pictures], matrices), self.valid[pictures], size)
        return crops, boxes, valid

    def losses(self, outputs: Outputs, targets: dict[str, Tensor], stage: Stage, kd_weight: float) -> dict[str, Tensor]:
        """Named terms; their sum is minimised."""
        stride = stage.height // outputs.ensemble.shape[2]
        wanted = centre_targets(targets["boxes"], targets["valid"], (stage.height, stage.width), stride)
        negative_weight = torch.where(targets["partial"], PARTIAL_NEGATIVE_WEIGHT, 1.0)
        anyone = targets["valid"].any(1, keepdim=True).float()
        recipe, terms = self.recipe, {}
        kind, temperature = recipe.soft_loss, recipe.temperature
        target = Heatmaps(wanted.heatmaps, temperature)
        soft = soft_targets(recipe.distillation, outputs, temperature, targets.get("teacher")) if kd_weight > 0 else {}
        for name, branch in outputs.branches.items():
            assert branch.boxes is not None
            terms[f"focal/{name}"] = centre_focal(branch.final, wanted.heatmaps, negative_weight)
            predicted = boxes_at_cells(branch.boxes, stride)
            terms[f"giou/{name}"] = recipe.box_weight * giou_loss(predicted, wanted.boxes, wanted.box_weight)
            if teachers := soft.get(name):
                distance = soft_loss([Heatmaps(branch.final, temperature)], teachers, target, anyone, kind)
                terms[f"{'kl' if kind == 'kl' else 'soft_mse'}/{name}"] = kd_weight * distance
        if recipe.distillation == "ensemble" and len(outputs.branches) > 1:
            focal = centre_focal(outputs.ensemble, wanted.heatmaps, negative_weight)
            terms["focal/ensemble"] = recipe.ensemble_weight * focal
        return terms

    def evaluate(self, model: OKDHP, stage: Stage) -> dict[str, float]:
        """Each branch's recall on held-out pictures at 0.3 false people a picture."""
        found = detect(model, self.pictures, self.held, (stage.height, stage.width))
        annotated = [self.boxes[i][self.valid[i]].numpy() for i in self.held.tolist()]
        return {name: recall_at_false_rate(results, annotated)[0] for name, results in found.items()}

    @torch.no_grad()
    def draw(self, model: OKDHP, stage: Stage) -> np.ndarray | None:
        """A few held-out pictures with the people found, and below them where the ensemble sees their centres."""
        size_hw, rows = (stage.height, stage.width), self.held[:SHOWN]
        if not len(rows):
            return None
        crops = self.pictures.sample(rows, letterboxes(self.pictures, rows, size_hw), size_hw)
        outputs: Outputs = model.eval()(crops.float())
        branch = outputs.branches[student_of(self.recipe).name]
        assert branch.boxes is not None
        found = decode_centres(branch.final, branch.boxes, size_hw[0] / branch.final.shape[2], TOP_K)
        boxes, scores = (values.cpu().numpy() for values in found)
        marked = [draw_boxes(im, b[s > DRAWN_SCORE]) for im, b, s in zip(pictures(crops), boxes, scores, strict=True)]
        return grid(crops, marked, outputs.ensemble[:, 0].float())


def letterboxes(pictures: Pictures, rows: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Maps (B, 2, 3) from whole pictures to the network's input."""
    wh = pictures.size_wh[rows]
    return crop_matrices(torch.cat([torch.zeros_like(wh), wh], 1), size_hw, padding=1.0)


def padded_boxes(dataset: Dataset) -> tuple[Tensor, Tensor]:
    """Each picture's boxes (P, N, 4) xyxy, N the largest number of people in one, and which are real (P, N)."""
    count = torch.bincount(dataset.people.picture, minlength=len(dataset.pictures))
    boxes = torch.zeros(len(dataset.pictures), int(count.max()), 4)
    boxes[..., 2:] = 1.0
    valid = torch.arange(boxes.shape[1])[None] < count[:, None]
    order = dataset.people.picture.argsort(stable=True)
    boxes[valid] = dataset.people.boxes[order]
    return boxes, valid


def transform_boxes(boxes: Tensor, matrices: Tensor) -> Tensor:
    """Upright boxes (B, N, 4) around the mapped ones; slight turns use the mid-points of the sides, which grow less."""
    x1, y1, x2, y2 = boxes.unbind(2)
    middle_x, middle_y = (x1 + x2) / 2, (y1 + y2) / 2
    sides = torch.stack([x1, middle_y, x2, middle_y, middle_x, y1, middle_x, y2], 2)
    B, N = boxes.shape[:2]
    points = transform_points(sides.view(B, N * 4, 2), matrices).view(B, N, 4, 2)
    return torch.cat([points.amin(2), points.amax(2)], dim=2)


def visible_boxes(boxes: Tensor, valid: Tensor, size_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Boxes (B, N, 4) cut to the view, and which still show enough of their person."""
    limit = torch.tensor([size_hw[1], size_hw[0]] * 2)
    cut = torch.minimum(boxes.clamp_min(0), limit)
    sides = cut[..., 2:] - cut[..., :2]
    whole = (boxes[..., 2:] - boxes[..., :2]).prod(-1).clamp_min(1e-6)
    seen = sides.clamp_min(0).prod(-1) / whole
    return cut, valid & (seen > MIN_VISIBLE) & (sides.amin(-1) > 2) & (sides.amax(-1) > MIN_SIDE_PX)


def mosaic(crops: Tensor, boxes: Tensor, valid: Tensor, half: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Four quarter pictures (4B, 3, h, w) side by side in one (B, 3, 2h, 2w), their boxes moved along."""
    height, width = half
    top, bottom = (torch.cat(pair, 3) for pair in (crops.chunk(4)[:2], crops.chunk(4)[2:]))
    shifts = torch.tensor([[0, 0], [width, 0], [0, height], [width, height]]).repeat(1, 2)
    moved = torch.cat([part + shift for part, shift in zip(boxes.chunk(4), shifts, strict=True)], 1)
    return torch.cat([top, bottom], 2), moved, torch.cat(valid.chunk(4), 1)


@torch.no_grad()
def detect(
    model: OKDHP, pictures: Pictures, rows: Tensor, size_hw: tuple[int, int]
) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    """For every branch, each picture's boxes (TOP_K, 4) xyxy in picture pixels and scores (TOP_K,)."""
    model.eval()
    found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for chunk in torch.split(rows, 32):
        matrices = letterboxes(pictures, chunk, size_hw)
        outputs: Outputs = model(pictures.sample(chunk, matrices, size_hw).float())
        linear = torch.linalg.inv(matrices[:, :, :2])
        back = torch.cat([linear, -linear @ matrices[:, :, 2:]], dim=2)
        for name, branch in outputs.branches.items():
            assert branch.boxes is not None
            stride = size_hw[0] / branch.final.shape[2]
            boxes, scores = decode_centres(branch.final, branch.boxes, stride, TOP_K)
            corners = transform_points(boxes.cpu().view(len(chunk), -1, 2), back).view(len(chunk), -1, 4)
            found.setdefault(name, []).extend(zip(corners.numpy(), scores.cpu().numpy(), strict=True))
    return found
