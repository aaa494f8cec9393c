"""Learning where people are in whole pictures: batches, loss terms and evaluation."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from app.suppression import people_of_cells
from model.decode import boxes_at_cells, surest_cells
from model.okdhp import OKDHP, Outputs
from model.student import DecoderConfig, DetectorBranch, Encoder
from training.augment import inverted, occlude, photometric, transform_points, uniform
from training.config import Recipe, Stage
from training.data import PARTIAL_SOURCES, Dataset
from training.distillation import soft_loss, soft_targets
from training.losses import Heatmaps, box_iou, giou_loss, quality_focal
from training.metrics import outside_crowds, recall_at_false_rate
from training.pictures import DataError, Pictures
from training.rows import student_of
from training.snapshots import draw_boxes, grid, pictures
from training.targets import cells_within, centre_targets
from training.views import close_ups, letterboxes, listed_people, mosaic, random_letterboxes, seen_people

PARTIAL_NEGATIVE_WEIGHT = 0.2  # what lies unannotated in PARTIAL_SOURCES may still be a person
PARTIAL_SHARE = 0.15  # of training examples: they are easy, one person in the middle
VIEW_SCALES, TILE_SCALES = (0.6, 1.6), (0.7, 1.6)  # of a picture in a view of its own, and in a mosaic
SHOWN, DRAWN_SCORE = 6, 0.3  # held-out pictures drawn for TensorBoard, and people in them


def build_model(recipe: Recipe) -> OKDHP:
    """The multi-branch network of a detector recipe, freshly initialised."""
    encoder = recipe.encoder.student
    branches = {
        branch.name: DetectorBranch(DecoderConfig(branch.widths, branch.depth, own=branch.own), encoder, branch.tower)
        for branch in recipe.branches
    }
    return OKDHP(Encoder(encoder), branches, 1, recipe.fau)


class DetectorTask:
    """Everything the training loop asks about finding people."""

    score_name = "recall_at_0.3_false"

    def __init__(self, recipe: Recipe, dataset: Dataset, held_pictures: np.ndarray) -> None:
        self.recipe, self.pictures = recipe, dataset.pictures
        if dataset.people.crowd.all():
            raise DataError("a detector learns from people's boxes, and there are none")
        self.listed = listed_people(dataset)
        partial, kept = np.isin(dataset.sources, PARTIAL_SOURCES), ~held_pictures
        asked = partial if partial.all() else ~partial
        self.partial = torch.from_numpy(partial)
        self.train, self.held = (torch.from_numpy(np.flatnonzero(asked & which)) for which in (kept, held_pictures))
        self.mixed_in = torch.from_numpy(np.flatnonzero(kept & ~asked))

    def __len__(self) -> int:
        return len(self.train)

    def build(self) -> OKDHP:
        return build_model(self.recipe)

    def batch(self, rows: Tensor, stage: Stage, generator: Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Augmented pictures (B, 3, H, W) float 0..255, by chance mosaics of four, and who can be seen in them.

        "partial" (B, n, n): which of the n x n pictures that make one up are not annotated completely.
        """
        config, size = self.recipe.augment, (stage.height, stage.width)
        if uniform(generator, 1, 0, 1).item() < config.mosaic:
            others = torch.randint(len(self.train), (3 * len(rows),), generator=generator)
            tiles = self._mixed(torch.cat([rows, others]), generator)
            half = (stage.height // 2, stage.width // 2)
            matrices = random_letterboxes(self.pictures.size_wh[tiles], half, TILE_SCALES, config, generator)
            crops = self.pictures.sample(tiles, matrices, half)
            seen = seen_people(self.listed, tiles, matrices, half)
            crops, seen, partial = mosaic(crops, seen, self.partial[tiles], half)
        else:
            pictures = self._mixed(rows, generator)
            matrices = self._views(pictures, size, generator)
            crops = self.pictures.sample(pictures, matrices, size)
            seen = seen_people(self.listed, pictures, matrices, size)
            partial = self.partial[pictures].view(-1, 1, 1)
        images = occlude(photometric(crops.float(), config, generator), config, generator)
        targets = {**seen._asdict(), "partial": partial}
        return images, {name: value.to(images.device, non_blocking=True) for name, value in targets.items()}

    def _mixed(self, rows: Tensor, generator: Generator) -> Tensor:
        """The pictures of training examples `rows`, some replaced by partly annotated ones."""
        pictures = self.train[rows]
        if not len(self.mixed_in):
            return pictures
        replaced = uniform(generator, len(rows), 0, 1) < PARTIAL_SHARE
        partly = self.mixed_in[torch.randint(len(self.mixed_in), rows.shape, generator=generator)]
        return torch.where(replaced, partly, pictures)

    def _views(self, pictures: Tensor, size: tuple[int, int], generator: Generator) -> Tensor:
        """Maps (B, 2, 3): whole pictures, or close-ups of somebody in them."""
        config = self.recipe.augment
        matrices = random_letterboxes(self.pictures.size_wh[pictures], size, VIEW_SCALES, config, generator)
        if config.close_up == 0:
            return matrices
        close = close_ups(self.listed, pictures, size, config, generator)
        chosen = uniform(generator, len(pictures), 0, 1) < config.close_up
        return torch.where((chosen & close[:, 0, 0].isfinite())[:, None, None], close, matrices)

    def losses(self, outputs: Outputs, targets: dict[str, Tensor], stage: Stage, kd_weight: float) -> dict[str, Tensor]:
        """Named terms; their sum is minimised."""
        size_hw, stride = (stage.height, stage.width), stage.height // outputs.ensemble.shape[2]
        wanted = centre_targets(targets["boxes"], targets["valid"], size_hw, stride)
        partial = F.interpolate(targets["partial"][:, None].float(), wanted.heatmaps.shape[2:])
        negative_weight = 1 - (1 - PARTIAL_NEGATIVE_WEIGHT) * partial
        negative_weight = negative_weight * ~cells_within(targets["boxes"], targets["ignored"], size_hw, stride)
        anyone = targets["valid"].any(1, keepdim=True).float()
        recipe, terms, overlaps = self.recipe, {}, []
        kind, temperature = recipe.soft_loss, recipe.temperature
        target = Heatmaps(wanted.heatmaps, temperature)
        soft: dict[str, tuple[Heatmaps, ...]] = {}
        if kd_weight > 0:
            teacher, detach = targets.get("teacher"), recipe.detach_target
            soft = soft_targets(recipe.distillation, outputs, temperature, teacher, detach)
        for name, branch in outputs.branches.items():
            assert branch.boxes is not None
            predicted = boxes_at_cells(branch.boxes, stride)
            overlaps.append(box_iou(predicted, wanted.boxes))
            terms[f"quality/{name}"] = quality_focal(branch.final, wanted.heatmaps, overlaps[-1], negative_weight)
            terms[f"giou/{name}"] = recipe.box_weight * giou_loss(predicted, wanted.boxes, wanted.box_weight)
            if teachers := soft.get(name):
                distance = soft_loss([Heatmaps(branch.final, temperature)], teachers, target, anyone, kind)
                terms[f"{'kl' if kind == 'kl' else 'soft_mse'}/{name}"] = kd_weight * distance
        if recipe.distillation == "ensemble" and len(outputs.branches) > 1:
            overlap = torch.stack(overlaps).mean(0)
            quality = quality_focal(outputs.ensemble, wanted.heatmaps, overlap, negative_weight)
            terms["quality/ensemble"] = recipe.ensemble_weight * quality
        return terms

    def evaluate(self, model: OKDHP, stage: Stage) -> dict[str, float]:
        """Each branch's recall on held-out pictures at 0.3 false people a picture; none where none is held out."""
        if not len(self.held):
            return {}
        found = detect(model, self.pictures, self.held, (stage.height, stage.width))
        held, boxes = self.held.tolist(), self.listed.boxes
        annotated = [boxes[i][self.listed.valid[i]].numpy() for i in held]
        crowds = [boxes[i][self.listed.ignored[i]].numpy() for i in held]
        return {
            name: recall_at_false_rate(outside_crowds(results, annotated, crowds), annotated)[0]
            for name, results in found.items()
        }

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
        cells = surest_cells(branch.final, branch.boxes, size_hw[0] / branch.final.shape[2])
        found = [people_of_cells(*one) for one in zip(*(values.cpu().numpy() for values in cells), strict=True)]
        marked = [draw_boxes(im, b[s > DRAWN_SCORE]) for im, (b, s) in zip(pictures(crops), found, strict=True)]
        return grid(crops, marked, outputs.ensemble[:, 0].float())


@torch.no_grad()
def detect(
    model: OKDHP, pictures: Pictures, rows: Tensor, size_hw: tuple[int, int]
) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    """For every branch, each picture's people: boxes (N, 4) xyxy in picture pixels and scores (N,), best first."""
    model.eval()
    found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for chunk in torch.split(rows, 32):
        matrices = letterboxes(pictures, chunk, size_hw)
        outputs: Outputs = model(pictures.sample(chunk, matrices, size_hw).float())
        back = inverted(matrices)
        for name, branch in outputs.branches.items():
            assert branch.boxes is not None
            stride = size_hw[0] / branch.final.shape[2]
            boxes, scores = surest_cells(branch.final, branch.boxes, stride)
            corners = transform_points(boxes.cpu().view(len(chunk), -1, 2), back).view(len(chunk), -1, 4)
            cells = zip(corners.numpy(), scores.cpu().numpy(), strict=True)
            found.setdefault(name, []).extend(people_of_cells(*one) for one in cells)
    return found
