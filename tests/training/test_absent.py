"""What is not there is learnt, too: keypoints out of sight, and places where nobody is."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from training.config import Augment, Branch, Encoder, Recipe, Stage
from training.data import Dataset, load_coco
from training.pose_crops import asked_keypoints
from training.pose_task import PoseTask
from training.recipes import load_recipe
from training.train import seeded
from training.views import backgrounds, listed_people

STAGE = Stage(1, 64, 64, batch=8)
RECIPE = Recipe(
    "absent",
    "pose",
    (STAGE,),
    (Branch("a", (8, 8, 8)),),
    "a",
    Encoder((8, 8, 8, 8, 8), (0, 0, 0, 0, 0)),
    augment=Augment(background=1.0),
    absent_weight=0.5,
)
NOSE, LEFT_KNEE, LEFT_ANKLE = 0, 13, 15


@pytest.fixture
def dataset(drawn_folder: Path) -> Dataset:
    return load_coco(drawn_folder, "train")


def task(dataset: Dataset, recipe: Recipe = RECIPE) -> PoseTask:
    return PoseTask(recipe, dataset, np.zeros(len(dataset.pictures), bool))


def test_a_keypoint_is_asked_for_where_its_source_ever_labels_it(dataset: Dataset) -> None:
    sources = np.where(np.arange(len(dataset.people)) % 2, "body", "all")
    labelled = dataset.people.labelled.clone()
    labelled[torch.from_numpy(sources == "body"), NOSE] = False  # as LSP-Extended, which has no faces
    labelled[0, LEFT_ANKLE] = False
    asked = asked_keypoints(dataclasses.replace(dataset.people, sources=sources, labelled=labelled))
    assert asked[0].all()
    assert asked[1].tolist() == [index != NOSE for index in range(17)]


def test_backgrounds_lie_in_their_picture_and_touch_nobody(dataset: Dataset) -> None:
    listed, sizes = listed_people(dataset), dataset.pictures.size_wh
    rows = torch.arange(len(dataset.pictures)).repeat(20)
    places = backgrounds(listed, sizes, rows, torch.Generator().manual_seed(0))
    found = places.isfinite().all(1)
    assert 0.2 < found.float().mean() < 1  # the drawn people leave room beside them, but not much
    places, wh = places[found], sizes[rows][found]
    assert (places[:, :2] >= 0).all()
    assert (places[:, 2:] <= wh + 1e-3).all()
    assert (places[:, 2:] > places[:, :2]).all()
    for place, row in zip(places, rows[found].tolist(), strict=True):
        for box in listed.boxes[row][listed.valid[row]]:
            apart = (place[2:] <= box[:2]) | (box[2:] <= place[:2])
            assert apart.any()


def test_where_nobody_is_every_heatmap_should_be_empty(dataset: Dataset) -> None:
    poses = task(dataset)
    _, targets = poses.batch(torch.arange(32), STAGE, seeded(0, 0, 1))
    background = targets["absent"].all(1)
    assert background.any()
    assert not background.all()  # where no place is free the person is learnt
    heatmaps, counts, visible = poses.target(targets, STAGE, 16)
    assert heatmaps.maps[background].abs().max() == 0
    assert (counts[background] == 0.5).all()
    assert visible[background].sum() == 0
    assert (heatmaps.maps[~background].amax((2, 3)) > 0.5).any()


def test_a_partly_annotated_picture_has_no_certain_background(dataset: Dataset) -> None:
    partial = dataclasses.replace(dataset.people, sources=np.full(len(dataset.people), "lspet"))
    _, targets = task(dataclasses.replace(dataset, people=partial)).batch(torch.arange(32), STAGE, seeded(0, 0, 1))
    assert not targets["absent"].any()


def test_a_keypoint_out_of_sight_asks_for_an_empty_heatmap_and_stays_with_its_side(dataset: Dataset) -> None:
    dataset.people.labelled[:, LEFT_KNEE] = torch.arange(len(dataset.people)) % 2 == 0
    recipe = dataclasses.replace(RECIPE, augment=Augment(background=0.0, flip=1.0))
    poses = task(dataset, recipe)
    _, targets = poses.batch(torch.arange(8), STAGE, seeded(0, 0, 1))
    right_knee = LEFT_KNEE + 1  # all crops are mirrored
    assert targets["absent"][:, right_knee].tolist() == [False, True] * 4
    assert targets["absent"].sum() == 4
    heatmaps, counts, _ = poses.target(targets, STAGE, 16)
    assert counts[:, right_knee].tolist() == [1, 0.5] * 4
    assert heatmaps.maps[1::2, right_knee].abs().max() == 0


def test_without_a_weight_what_is_not_labelled_does_not_count(dataset: Dataset) -> None:
    dataset.people.labelled[:, LEFT_KNEE] = torch.arange(len(dataset.people)) % 2 == 0
    plain = task(dataset, dataclasses.replace(RECIPE, augment=Augment(flip=0.0), absent_weight=0.0))
    _, counts, _ = plain.target(plain.batch(torch.arange(8), STAGE, seeded(0, 0, 1))[1], STAGE, 16)
    assert counts[:, LEFT_KNEE].tolist() == [1, 0] * 4


def test_fine_tuning_on_ones_own_people_learns_nothing_from_what_nobody_labelled(dataset: Dataset) -> None:
    dataset.people.labelled[:, LEFT_KNEE] = torch.arange(len(dataset.people)) % 2 == 0
    recipe = load_recipe(Path(__file__).parents[2] / "training" / "configs" / "pose-finetune.toml")
    poses, stage = task(dataset, dataclasses.replace(recipe, region_share=0.0)), recipe.stages[-1]
    _, targets = poses.batch(torch.arange(8), stage, seeded(0, 0, 1))
    _, counts, visible = poses.target(targets, stage, stage.height // 4)
    assert targets["labelled"].any(1).all()  # nor are crops spent on places where nobody is
    assert not counts[~targets["labelled"]].any() and not visible[~targets["labelled"]].any()
