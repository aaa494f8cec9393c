"""Learning keypoints from crops of annotated people: batches, loss terms and evaluation."""

import logging

import numpy as np
import torch
from torch import Generator, Tensor, nn

from model.okdhp import OKDHP, Outputs
from training.answers import Answers, drawn
from training.augment import crop_matrices, inverted, transform_points
from training.box_task import Regions, region_losses
from training.config import Recipe, Stage
from training.data import Dataset, People
from training.decoding import Decode, deployed_decoding
from training.distillation import seen_by, soft_loss, soft_targets, students
from training.distributed import Group
from training.joints import MPII, JointSet
from training.losses import Heatmaps, heatmap_mse, pixelwise_kl
from training.metrics import measured, oks, oks_share
from training.pckh import head_sizes, pckh
from training.pictures import Pictures
from training.pose_crops import Crops, PoseCrops, answer_targets, keypoint_targets
from training.pose_network import build_model as build_model
from training.rows import student_of
from training.snapshots import draw_skeleton, grid, pictures
from training.targets import keypoint_heatmaps

log = logging.getLogger("okdhp.train")
MIN_TRAINED_POINTS, MIN_TRAINED_HEIGHT_PX = 3, 32
EVALUATION_BATCH = 64
# Of the softmax of the annotation's KL, which drawn bells need whatever the teachers' `temperature`: at 1 a bell of
# height 1 among thousands of pixels is all but even, and says nothing of where the keypoint is.
ANNOTATION_TEMPERATURE = 0.1
SHOWN = 8  # held-out people drawn for TensorBoard


class PoseTask:
    """Everything the training loop asks about poses. `train` people are learnt from, `held` ones only measured on.

    regions: where a detector sees somebody, for a recipe with region_share. answers: what a teacher sees of everybody,
    for one with teacher_once. group: among whom a batch is shared.
    """

    def __init__(
        self,
        recipe: Recipe,
        dataset: Dataset,
        held_pictures: np.ndarray,
        regions: Regions | None = None,
        answers: Answers | None = None,
        group: Group | None = None,
    ) -> None:
        self.recipe, self.pictures, self.joints = recipe, dataset.pictures, dataset.joints
        self.score_name = score_name(self.joints)
        self.decode = deployed_decoding(self.joints)
        people = dataset.people
        labelled, height = people.labelled.sum(1), people.boxes[:, 3] - people.boxes[:, 1]
        usable = ((labelled >= MIN_TRAINED_POINTS) & (height >= MIN_TRAINED_HEIGHT_PX)).numpy()
        held = held_pictures[people.picture.numpy()]
        self.crops = PoseCrops(dataset, usable & ~held, recipe.augment, regions)
        self.answers, self.group = answers, group or Group()
        self.held = people.subset(held & scored(people, self.joints))
        if held.any() and not len(self.held):
            log.warning("none of the people held aside can be measured by %s", self.score_name)
        finest = recipe.stages[-1]
        self.sigma_per_height = recipe.sigma / finest.height

    def __len__(self) -> int:
        return len(self.crops.people)

    def build(self) -> OKDHP:
        return build_model(self.recipe, len(self.joints.names))

    def batch(self, rows: Tensor, stage: Stage, generator: Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Augmented crops (B, 3, H, W) float 0..255 and their targets on the pictures' device.

        rows (B,): of a whole batch of stage.batch those that are this process's, all where it is alone.
        "absent" (B, K): which keypoints are known to be out of sight, so that their heatmaps should be empty. The
        first crops, by the recipe's region_share, are of regions: "region/boxes", "region/near", "region/counts".
        """
        size = stage.height, stage.width
        count = self.group.part(regions_in(self.recipe, stage))
        crops, targets = self.crops.of_people(rows[count:], size, generator), {}
        if count:
            looked, wanted = self.crops.of_regions(count, size, generator)
            crops = Crops(*(torch.cat(pair) for pair in zip(looked, crops, strict=True)))
            targets = {f"region/{name}": getattr(wanted, name) for name in ("boxes", "near", "counts")}
        images = self.crops.images(crops, size, generator)
        targets |= keypoint_targets(crops, self.joints)
        if self.answers is not None:
            targets |= answer_targets(crops, self.answers, self.joints)
        return images, {name: value.to(images.device, non_blocking=True) for name, value in targets.items()}

    def losses(self, outputs: Outputs, targets: dict[str, Tensor], stage: Stage, kd_weight: float) -> dict[str, Tensor]:
        """Named terms; their sum is minimised."""
        recipe, kind, temperature = self.recipe, self.recipe.soft_loss, self.recipe.temperature
        height = outputs.ensemble.shape[2]
        target, weight, visible = self.target(targets, stage, height)
        soft: dict[str, tuple[Heatmaps, ...]] = {}
        if kd_weight > 0:
            teacher = targets.get("teacher") if self.answers is None else self.answered(targets, stage, height)
            soft = soft_targets(recipe.distillation, outputs, temperature, teacher, recipe.detach_target)
        terms: dict[str, Tensor] = {}
        for name, heatmaps in students(outputs, temperature).items():
            branch = outputs.branches.get(name)  # None for a shared stack
            terms[f"mse/{name}"] = torch.stack([heatmap_mse(maps, target, weight) for maps in heatmaps]).sum()
            if branch is not None and recipe.hard_kl_weight > 0:
                hard = [pixelwise_kl(maps.at(ANNOTATION_TEMPERATURE), target, visible) for maps in heatmaps]
                terms[f"hard_kl/{name}"] = recipe.hard_kl_weight * torch.stack(hard).sum()
            if teachers := soft.get(name):
                taught = visible
                if recipe.unlabelled_weight > 0:
                    taught = visible + recipe.unlabelled_weight * seen_by(teachers) * ~targets["labelled"]
                distance = soft_loss(heatmaps, teachers, target, taught, kind)
                terms[f"{'kl' if kind == 'kl' else 'soft_mse'}/{name}"] = kd_weight * distance
            if branch is not None and branch.region is not None and "region/boxes" in targets:
                terms |= {f"{term}/{name}": value for term, value in region_losses(branch.region, targets).items()}
        if recipe.distillation == "ensemble" and len(outputs.branches) > 1:
            ensemble = Heatmaps(outputs.ensemble, temperature)
            terms["mse/ensemble"] = recipe.ensemble_weight * heatmap_mse(ensemble, target, weight)
        return terms

    def target(self, targets: dict[str, Tensor], stage: Stage, height: int) -> tuple[Heatmaps, Tensor, Tensor]:
        """What the heatmaps, `height` cells high, should be, and which count (B, K) for MSE and for KL.

        A labelled point outside the crop asks for an empty heatmap, of which a softmax says nothing; so does one known
        to be out of sight, by the recipe's absent_weight.
        """
        points, labelled = targets["keypoints"], targets["labelled"].float()
        stride = stage.height // height
        x, y = points.unbind(2)
        inside = (x >= 0) & (x < stage.width) & (y >= 0) & (y < stage.height)
        counts = labelled + self.recipe.absent_weight * targets["absent"]
        present, sigma = inside & targets["labelled"], self.sigma(stage, stride)
        maps = keypoint_heatmaps(points, present, (stage.height, stage.width), stride, sigma)
        return Heatmaps(maps, ANNOTATION_TEMPERATURE), counts, labelled * inside

    def answered(self, targets: dict[str, Tensor], stage: Stage, height: int) -> Tensor:
        """What a teacher who was asked once would say of these crops, as heatmaps `height` cells high."""
        stride, size_hw = stage.height // height, (stage.height, stage.width)
        return drawn(targets["places"], targets["heights"], size_hw, stride, self.sigma(stage, stride))

    def sigma(self, stage: Stage, stride: int) -> float:
        """Of a keypoint's bell, in cells of `stride` pixels: as wide on the body at every stage."""
        return self.sigma_per_height * stage.height * 4 / stride

    def evaluate(self, model: OKDHP, stage: Stage) -> dict[str, float]:
        """The score of every branch and the ensemble on the held-out people; none where nobody is held out."""
        if not len(self.held):
            return {}
        predictions = predict(model, self.pictures, self.held, (stage.height, stage.width), self.decode)
        return {name: score(keypoints, self.held, self.joints) for name, (keypoints, _) in predictions.items()}

    @torch.no_grad()
    def draw(self, model: OKDHP, stage: Stage) -> np.ndarray | None:
        """A few held-out people with the student's skeletons, and below them the ensemble's heatmaps."""
        people, size_hw = self.held, (stage.height, stage.width)
        if not len(people):
            return None
        shown = slice(0, SHOWN)
        crops = self.pictures.sample(people.picture[shown], crop_matrices(people.boxes[shown], size_hw), size_hw)
        outputs: Outputs = model.eval()(crops.float())
        heatmaps = outputs.branches[student_of(self.recipe).name].final.float()
        points, _ = self.decode(heatmaps, size_hw[0] / heatmaps.shape[2])
        skeletons = [
            draw_skeleton(image, keypoints, self.joints.limbs)
            for image, keypoints in zip(pictures(crops), points.cpu().numpy(), strict=True)
        ]
        return grid(crops, skeletons, outputs.ensemble.float().amax(1))


def regions_in(recipe: Recipe, stage: Stage) -> int:
    """How many of a whole batch are of regions."""
    return round(recipe.region_share * stage.batch)


def score_name(joints: JointSet) -> str:
    """What `score` measures: OKS knows COCO's keypoints, PCKh MPII's."""
    return "pckh_50" if joints == MPII else "oks_share"


def scored(people: People, joints: JointSet) -> np.ndarray:
    """Which people (N,) bool `score` can measure."""
    if joints == MPII:
        known: np.ndarray = (head_sizes(people.head_boxes.numpy()) > 0) & people.labelled.any(1).numpy()
        return known
    return measured(people.labelled.numpy(), people.boxes.numpy())


def score(keypoints: np.ndarray, people: People, joints: JointSet) -> float:
    """OKS share, or PCKh@0.5 of MPII's joints, of predicted keypoints (N, K, 2) for `people`."""
    annotated, labelled = people.keypoints.numpy(), people.labelled.numpy()
    if joints == MPII:
        return pckh(keypoints, annotated, labelled, people.head_boxes.numpy()).at_50
    return oks_share(oks(keypoints, annotated, labelled, people.area.numpy()))


@torch.no_grad()
def predict(
    model: nn.Module,
    pictures: Pictures,
    people: People,
    size_hw: tuple[int, int],
    decode: Decode,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """For each branch and "ensemble": keypoints (N, K, 2) in picture pixels and scores (N, K), with given boxes.

    Deterministic crops; no flip test unless `model` is a FlipTested one.
    """
    model.eval()
    found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for rows in torch.split(torch.arange(len(people)), EVALUATION_BATCH):
        matrices = crop_matrices(people.boxes[rows], size_hw)
        images = pictures.sample(people.picture[rows], matrices, size_hw).float()
        outputs: Outputs = model(images)
        heatmaps = {name: branch.final for name, branch in outputs.branches.items()} | {"ensemble": outputs.ensemble}
        back = inverted(matrices)
        for name, maps in heatmaps.items():
            points, scores = decode(maps.float(), size_hw[0] / maps.shape[2])
            found.setdefault(name, []).append((transform_points(points.cpu(), back).numpy(), scores.cpu().numpy()))
    return {
        name: (np.concatenate([points for points, _ in parts]), np.concatenate([scores for _, scores in parts]))
        for name, parts in found.items()
    }
