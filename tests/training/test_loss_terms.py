"""What each loss term weighs, and about whom it is: nobody would see in a falling loss that one counts for nothing."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from small_runs import DETECTOR, POSE
from torch import Tensor, nn

from app.geometry import crop_matrix, invert, transform
from model.decode import boxes_at_cells
from model.okdhp import Outputs
from model.outputs import BranchOutput
from training.config import Branch, Encoder, Hourglass, Recipe, Stage
from training.data import load_coco
from training.decoding import decode_heatmaps
from training.detector_task import DetectorTask
from training.distillation import students
from training.losses import Heatmaps, box_iou, heatmap_mse, quality_focal
from training.pose_task import PoseTask, predict
from training.restore import build_network
from training.targets import cells_within, centre_targets, keypoint_heatmaps
from training.train import seeded

STAGE = Stage(1, 64, 64, batch=4)
HOURGLASS = dataclasses.replace(
    POSE,
    stages=(STAGE,),
    network="hourglass",
    encoder=Encoder(),
    hourglass=Hourglass(channels=8, shared=1),
    branches=(Branch("a", stacks=1), Branch("b", stacks=2)),
)


def task_of(recipe: Recipe, folder: Path) -> PoseTask | DetectorTask:
    dataset, kind = load_coco(folder, "train"), PoseTask if recipe.task == "pose" else DetectorTask
    return kind(recipe, dataset, np.zeros(len(dataset.pictures), bool))


def terms_of(recipe: Recipe, folder: Path, kd_weight: float) -> dict[str, Tensor]:
    """Of the same network and batch, whatever the recipe weighs."""
    task = task_of(recipe, folder)
    images, targets = task.batch(torch.arange(4), STAGE, seeded(0, 0, 1))
    torch.manual_seed(0)
    model = build_network(recipe)
    for branch in model.branches.values():  # untrained heads would all answer alike, and have nothing to teach
        torch.nn.init.normal_((branch.head if recipe.task == "pose" else branch.centre).weight, std=0.5)
    return task.losses(model(images), targets, STAGE, kd_weight)


@pytest.mark.parametrize("recipe", [POSE, DETECTOR], ids=lambda recipe: recipe.task)
@pytest.mark.parametrize("soft_loss", ["kl", "mse"])
def test_whoever_teaches_weighs_what_is_asked_and_the_annotation_is_not_touched(
    recipe: Recipe, soft_loss: str, drawn_folder: Path
) -> None:
    recipe = dataclasses.replace(recipe, soft_loss=soft_loss)
    once, thrice = (terms_of(recipe, drawn_folder, weight) for weight in (1.0, 3.0))
    soft = {name for name in once if name.startswith(("kl/", "soft_mse/"))}
    assert len(soft) == 2 and all(once[name] > 1e-3 for name in soft)
    for name, value in once.items():
        torch.testing.assert_close(thrice[name], 3 * value if name in soft else value)


@pytest.mark.parametrize(
    ("recipe", "key", "prefix"),
    [
        (POSE, "ensemble_weight", "mse/ensemble"),
        (POSE, "hard_kl_weight", "hard_kl/"),
        (DETECTOR, "ensemble_weight", "quality/ensemble"),
        (DETECTOR, "box_weight", "giou/"),
    ],
)
def test_a_weight_of_the_recipe_is_that_of_its_terms_alone(
    recipe: Recipe, key: str, prefix: str, drawn_folder: Path
) -> None:
    once, thrice = (terms_of(dataclasses.replace(recipe, **{key: w}), drawn_folder, 1.0) for w in (1.0, 3.0))
    assert any(name.startswith(prefix) for name in once)
    for name, value in once.items():
        torch.testing.assert_close(thrice[name], 3 * value if name.startswith(prefix) else value)


def test_every_stack_of_a_branch_learns_the_annotation_as_much_as_the_last(drawn_folder: Path) -> None:
    task = task_of(HOURGLASS, drawn_folder)
    assert isinstance(task, PoseTask)
    images, targets = task.batch(torch.arange(4), STAGE, seeded(0, 0, 1))
    torch.manual_seed(0)
    out = build_network(HOURGLASS)(images)
    terms = task.losses(out, targets, STAGE, 0.0)
    target, weight, _ = task.target(targets, STAGE, out.ensemble.shape[2])
    learning = students(out, HOURGLASS.temperature)
    assert {name: len(stacks) for name, stacks in learning.items()} == {"shared0": 1, "a": 1, "b": 2}
    for name, stacks in learning.items():
        torch.testing.assert_close(terms[f"mse/{name}"], sum(heatmap_mse(maps, target, weight) for maps in stacks))


def test_a_score_s_loss_is_per_person_however_many_there_are() -> None:
    p, bell = torch.full((1, 1, 1, 3), 0.3), torch.tensor([[[[1.0, 0.5, 0.0]]]])
    overlap, weight = torch.full((1, 1, 3), 0.8), torch.ones(1)
    alone = quality_focal(p, bell, overlap, weight)
    crowd = quality_focal(p.repeat(4, 1, 1, 1), bell.repeat(4, 1, 1, 1), overlap.repeat(4, 1, 1), weight)
    torch.testing.assert_close(crowd, alone)


def test_where_nobody_is_annotated_no_detector_teaches_another(drawn_folder: Path) -> None:
    """Their softmaxes would say where in an empty picture the person is likeliest."""
    task = task_of(DETECTOR, drawn_folder)
    maps = [torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    boxes = torch.zeros(2, 4, 8, 8)
    branches = {name: BranchOutput(final, boxes=boxes) for name, final in zip("ab", maps, strict=False)}
    out = Outputs((), branches, torch.full((2, 2, 1), 0.5), maps[2])
    box = torch.tensor([[[8.0, 8, 40, 56]]])
    soft = []
    for seen in ([True, True], [True, False], [False, False]):
        targets = {
            "boxes": box.repeat(2, 1, 1),
            "valid": torch.tensor(seen)[:, None],
            "ignored": torch.zeros(2, 1, dtype=torch.bool),
            "partial": torch.zeros(2, 1, 1, dtype=torch.bool),
        }
        soft.append(task.losses(out, targets, STAGE, 1.0)["kl/a"])
    first = Heatmaps(maps[0][:1], DETECTOR.temperature), Heatmaps(maps[2][:1], DETECTOR.temperature)
    by_hand = (first[1].p * (first[1].log_p - first[0].log_p)).sum()
    torch.testing.assert_close(soft[1], by_hand)
    assert soft[0] != soft[1] and soft[2] == 0


def test_a_labelled_point_beyond_the_crop_asks_for_an_empty_heatmap_and_for_no_place(drawn_folder: Path) -> None:
    wide = Stage(1, 64, 96, batch=4)
    task = task_of(dataclasses.replace(POSE, stages=(wide,)), drawn_folder)
    assert isinstance(task, PoseTask)
    points = torch.tensor([[80.0, 30], [30, 80], [97, 30], [-1, 30], [30, -1], [80, 63], [0, 0]])
    inside = torch.tensor([True, False, False, False, False, True, True])
    keypoints, labelled = torch.full((1, 17, 2), 10.0), torch.zeros(1, 17, dtype=torch.bool)
    keypoints[0, : len(points)], labelled[0, : len(points)] = points, True
    targets = {"keypoints": keypoints, "labelled": labelled, "absent": torch.zeros_like(labelled)}
    maps, counts, visible = task.target(targets, wide, 16)
    assert torch.equal(counts, labelled.float())
    assert torch.equal(visible[0, : len(points)], inside.float()) and not visible[0, len(points) :].any()
    assert torch.equal(maps.maps[0, : len(points)].amax((1, 2)) > 0.5, inside)


def test_a_bell_is_as_wide_on_the_body_at_every_size_and_stride(drawn_folder: Path) -> None:
    stages = (Stage(1, 64, 64, batch=8), Stage(1, 128, 96, batch=8))
    task = task_of(dataclasses.replace(POSE, stages=stages, sigma=3.0), drawn_folder)
    assert isinstance(task, PoseTask)
    assert task.sigma(stages[-1], 4) == pytest.approx(3.0)  # as the recipe has it
    for stage in stages:
        for stride in (2, 4, 8):
            assert task.sigma(stage, stride) * stride / stage.height == pytest.approx(3.0 * 4 / 128)


def test_a_detector_s_scores_learn_how_well_its_own_boxes_fit_and_the_ensemble_s_their_mean(drawn_folder: Path) -> None:
    task = task_of(DETECTOR, drawn_folder)
    images, targets = task.batch(torch.arange(4), STAGE, seeded(0, 0, 1))
    torch.manual_seed(0)
    model = build_network(DETECTOR)
    for branch in model.branches.values():
        torch.nn.init.normal_(branch.boxes[-1].weight, std=0.5)
    out = model(images)
    terms = task.losses(out, targets, STAGE, 0.0)
    wanted = centre_targets(targets["boxes"], targets["valid"], (64, 64), 8)
    counts = (~cells_within(targets["boxes"], targets["ignored"], (64, 64), 8)).float()
    fits = {name: box_iou(boxes_at_cells(b.boxes, 8), wanted.boxes) for name, b in out.branches.items()}
    assert (fits["a"] - fits["b"]).abs().max() > 0.05
    for name, fit in fits.items():
        by_hand = quality_focal(out.branches[name].final, wanted.heatmaps, fit, counts)
        torch.testing.assert_close(terms[f"quality/{name}"], by_hand)
    mean = (fits["a"] + fits["b"]) / 2
    torch.testing.assert_close(terms["quality/ensemble"], quality_focal(out.ensemble, wanted.heatmaps, mean, counts))


class Fixed(nn.Module):
    """Sees every keypoint where `points` (17, 2) say, whatever the crop."""

    def __init__(self, points: Tensor) -> None:
        super().__init__()
        self.points = points

    def forward(self, images: Tensor) -> Outputs:
        count = len(images)
        every = torch.ones(count, 17, dtype=torch.bool)
        maps = keypoint_heatmaps(self.points.repeat(count, 1, 1), every, (images.shape[2], images.shape[3]), 4, 1.5)
        return Outputs((), {"a": BranchOutput(maps)}, torch.ones(count, 1, 17), maps)


def test_what_is_seen_in_a_tall_crop_is_measured_where_it_is_in_the_picture(drawn_folder: Path) -> None:
    dataset = load_coco(drawn_folder, "train")
    points = torch.rand(17, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([48.0, 112]) + 8
    keypoints, scores = predict(Fixed(points), dataset.pictures, dataset.people, (128, 64), decode_heatmaps)["a"]
    assert (scores > 0.8).all()
    for box, found in zip(dataset.people.boxes.numpy(), keypoints, strict=True):
        back = invert(crop_matrix(box, (64, 128)))
        np.testing.assert_allclose(found, transform(points.numpy(), back), atol=0.05)
