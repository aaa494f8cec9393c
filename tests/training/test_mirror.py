"""The averaged network's answer to the mirror image teaches every branch; so does the similarity that is missed."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from app.geometry import CROP_PADDING
from model.okdhp import Outputs
from training.checkpoint import load_checkpoint
from training.config import Augment, Branch, Encoder, Recipe, Stage
from training.data import Dataset, load_coco
from training.decoding import flip_back
from training.joints import COCO
from training.losses import Heatmaps
from training.pose_task import PoseTask
from training.train import seeded, train

STAGE = Stage(1, 64, 64, batch=8)
STILL = Augment(
    flip=0, scale=0, rotation=0, shift=0, half_body=0, occlusion=0, colour=0, low_light=0, noise=0, blur=0, background=0
)
RECIPE = Recipe(
    "mirror",
    "pose",
    (STAGE,),
    (Branch("a", (8, 8, 8)),),
    "a",
    Encoder((8, 8, 8, 8, 8), (0, 0, 0, 0, 0)),
    augment=STILL,
    mirror=True,
    oks_weight=0.5,
    kd_ramp=0.01,
    holdout=0.2,
)


@pytest.fixture
def dataset(drawn_folder: Path) -> Dataset:
    return load_coco(drawn_folder, "train")


def task(dataset: Dataset, recipe: Recipe = RECIPE) -> PoseTask:
    return PoseTask(recipe, dataset, np.zeros(len(dataset.pictures), bool))


def test_the_teacher_sees_the_mirror_image_uncovered_and_in_its_own_light(dataset: Dataset) -> None:
    plain, still = task(dataset).batch(torch.arange(8), STAGE, seeded(0, 0, 1))
    torch.testing.assert_close(still["mirror"], plain.flip(3))
    hard = dataclasses.replace(RECIPE, augment=dataclasses.replace(STILL, occlusion=1.0, low_light=1.0))
    images, targets = task(dataset, hard).batch(torch.arange(8), STAGE, seeded(0, 0, 1))
    torch.testing.assert_close(targets["mirror"], plain.flip(3))
    assert images.mean() < 0.7 * plain.mean()


def test_a_branch_that_says_of_a_picture_what_the_average_says_of_its_mirror_image_has_nothing_to_learn(
    dataset: Dataset,
) -> None:
    poses = task(dataset)
    images, targets = poses.batch(torch.arange(8), STAGE, seeded(0, 0, 1))
    outputs: Outputs = poses.build()(images)
    own = outputs.ensemble.detach()

    def distance(mirrored: torch.Tensor) -> float:
        terms = poses.losses(outputs, targets | {"mirrored": mirrored}, STAGE, kd_weight=1.0)
        return terms["kl/a"].item()

    of_the_mirror_image = flip_back(own, COCO.flip_index)  # mirroring is its own inverse
    assert distance(of_the_mirror_image) == pytest.approx(0, abs=1e-5)
    assert distance(own) > 10 * abs(distance(of_the_mirror_image))


def test_the_average_teaches_a_branch_that_is_alone(drawn_folder: Path, dataset: Dataset, tmp_path: Path) -> None:
    def last_losses(recipe: Recipe, out: Path) -> set[str]:
        path = train(recipe, dataset, out, device=torch.device("cpu"), amp=False)
        (epoch,) = load_checkpoint(path)["history"]
        return {name for name, value in epoch["losses"].items() if value > 0}

    assert {"kl/a", "oks/a"} <= last_losses(RECIPE, tmp_path / "with")
    without = dataclasses.replace(RECIPE, mirror=False, oks_weight=0.0)
    assert not {"kl/a", "oks/a"} & last_losses(without, tmp_path / "without")


def test_a_body_is_as_large_in_the_crop_as_the_crop_makes_it(dataset: Dataset) -> None:
    poses = task(dataset)
    _, targets = poses.batch(torch.arange(8), STAGE, seeded(0, 0, 1))
    sides = (poses.train.boxes[:8, 2:] - poses.train.boxes[:8, :2]).amax(1)
    zoom = STAGE.height / sides / CROP_PADDING
    torch.testing.assert_close(targets["body"], poses.train.area[:8].sqrt().float() * zoom.float())


def test_perfect_heatmaps_miss_little_of_a_large_bodys_similarity_and_empty_ones_most(dataset: Dataset) -> None:
    poses = task(dataset)
    _, targets = poses.batch(torch.arange(8), STAGE, seeded(0, 0, 1))
    perfect, _, visible = poses.target(targets, STAGE, 16)
    empty = Heatmaps(torch.zeros_like(perfect.maps), RECIPE.temperature)
    large = targets | {"body": 4 * targets["body"]}
    assert poses.missed_oks([empty], targets, STAGE, visible) > 0.7
    assert poses.missed_oks([perfect], targets, STAGE, visible) < 0.5  # an eye's tolerance is less than a cell here
    assert poses.missed_oks([perfect], large, STAGE, visible) < 0.1
