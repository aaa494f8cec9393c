"""What a run does step by step: in which order, at which rate, with which weight, and what it keeps of it."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import CPU, DETECTOR, POSE, TINY, run
from torch import Generator, Tensor, nn

from model.layers import RepConv
from training.config import Branch, Encoder, Hourglass, Recipe, Stage
from training.data import held_pictures, load_coco
from training.ema import EMA
from training.pose_task import PoseTask, build_model
from training.restore import build_network
from training.train import Run, batches, prepare, train_step


def test_rate_and_weight_of_the_teaching_follow_the_steps_of_the_whole_run(
    drawn_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[tuple[float, float]] = []

    def noted(run: Run, images: Tensor, targets: Any, stage: Stage, rate: float, kd_weight: float) -> Any:
        steps.append((rate, kd_weight))
        return train_step(run, images, targets, stage, rate, kd_weight)

    monkeypatch.setattr("training.train.train_step", noted)
    recipe = dataclasses.replace(POSE, kd_weight=1.5, kd_ramp=0.5, learning_rate=1e-3, warmup_epochs=1.0)
    epochs = len(run(recipe, drawn_folder, tmp_path)["history"])
    each, rest = divmod(len(steps), epochs)
    assert (epochs, rest) == (3, 0) and each >= 3
    for step, (rate, kd_weight) in enumerate(steps):
        done = step / len(steps)
        warm = min(1.0, step / each + 1e-3)
        assert rate == pytest.approx(1e-3 * warm * (1 + math.cos(math.pi * done)) / 2)
        assert kd_weight == pytest.approx(1.5 * math.exp(-5 * (1 - min(done / 0.5, 1)) ** 2))


def first_batch(run: Run) -> tuple[Tensor, dict[str, Tensor], Stage]:
    stage = run.recipe.stages[0]
    images, targets = next(batches(run, stage, epoch=0))
    return images, targets, stage


def test_a_step_s_rate_is_that_of_every_weight(drawn_folder: Path) -> None:
    ready = prepare(POSE, load_coco(drawn_folder, "train"), CPU, amp=False)
    before = {name: value.clone() for name, value in ready.model.named_parameters()}
    train_step(ready, *first_batch(ready), rate=0.0, kd_weight=1.0)
    assert all(torch.equal(value, before[name]) for name, value in ready.model.named_parameters())
    train_step(ready, *first_batch(ready), rate=1e-3, kd_weight=1.0)
    still = {name.split(".")[0] for name, value in ready.model.named_parameters() if torch.equal(value, before[name])}
    assert still == {"fau"}  # whose heads start at zero, and let no gradient through yet


def test_a_step_goes_by_its_own_batch_alone(drawn_folder: Path) -> None:
    ready = prepare(POSE, load_coco(drawn_folder, "train"), CPU, amp=False)

    def slope() -> Tensor:
        train_step(ready, *first_batch(ready), rate=0.0, kd_weight=1.0)
        found = ready.model.trunk.stages[0][0].conv3x3.grad
        assert found is not None
        return found.clone()

    torch.testing.assert_close(slope(), slope())


@pytest.mark.parametrize("fau", ["slim", "concat"])
@pytest.mark.parametrize("kind", ["student", "hourglass", "detector"])
def test_weight_decay_is_of_kernels_alone(kind: str, fau: Any, drawn_folder: Path) -> None:
    recipe: Recipe = dataclasses.replace(DETECTOR if kind == "detector" else POSE, fau=fau, weight_decay=0.07)
    if kind == "hourglass":
        one = (Stage(1, 64, 64, batch=8),)
        branches, hourglass = (Branch("a"), Branch("b")), Hourglass(channels=8, shared=1)
        recipe = dataclasses.replace(
            recipe, network=kind, encoder=Encoder(), stages=one, branches=branches, hourglass=hourglass
        )
    ready = prepare(recipe, load_coco(drawn_folder, "train"), CPU, amp=False)
    kernels = set()
    for module in ready.model.modules():
        if isinstance(module, RepConv):
            kernels |= {id(module.conv3x3), id(module.conv1x1)}
        elif isinstance(module, nn.Conv2d | nn.Linear):
            kernels.add(id(module.weight))
    decay = {id(p): group["weight_decay"] for group in ready.optimiser.param_groups for p in group["params"]}
    for name, parameter in ready.model.named_parameters():
        assert decay[id(parameter)] == (0.07 if id(parameter) in kernels else 0.0), name


class Rows:
    """A task of 20 examples whose batches say which they are, and a number drawn for each batch."""

    def __len__(self) -> int:
        return 20

    def batch(self, rows: Tensor, stage: Stage, generator: Generator) -> tuple[Tensor, dict[str, Tensor]]:
        return rows, {"drawn": torch.rand(1, generator=generator)}


def test_each_epoch_shows_other_batches_in_another_light(drawn_folder: Path) -> None:
    ready = prepare(POSE, load_coco(drawn_folder, "train"), CPU, amp=False)
    epochs = []
    for recipe in (POSE, dataclasses.replace(POSE, seed=1)):
        rows: Run = dataclasses.replace(ready, task=Rows(), recipe=recipe)
        epochs += [list(batches(rows, Stage(1, 64, 64, batch=8), epoch)) for epoch in range(3)]
    orders = [torch.cat([rows for rows, _ in epoch]).tolist() for epoch in epochs]
    assert all(len(order) == len(set(order)) == 16 and order != sorted(order) for order in orders)
    assert len(set(map(tuple, orders))) == len(orders)
    drawn = [float(targets["drawn"]) for epoch in epochs for _, targets in epoch]
    assert len(set(drawn)) == len(drawn) == 12


def test_the_average_keeps_no_more_of_the_past_than_its_decay() -> None:
    model = build_model(POSE)
    average = EMA(model, decay=0.5)
    average.updates = 10_000
    with torch.no_grad():
        model.trunk.stages[0][0].scale3x3 += 1.0
        model.trunk.stages[0][0].norm.running_mean += 1.0
    average.update(model)
    now = average.model.trunk.stages[0][0]
    torch.testing.assert_close(now.scale3x3, model.trunk.stages[0][0].scale3x3 - 0.5)
    torch.testing.assert_close(now.norm.running_mean, torch.full((TINY.widths[0],), 0.5))


def test_of_a_run_that_goes_on_the_average_does_too(drawn_folder: Path, tmp_path: Path) -> None:
    one_size = dataclasses.replace(POSE, stages=(Stage(2, 64, 64, batch=8),))
    whole = run(one_size, drawn_folder, tmp_path / "whole")
    run(one_size, drawn_folder, tmp_path / "parts", max_hours=0.0)
    parts = run(one_size, drawn_folder, tmp_path / "parts")
    assert parts["ema_updates"] == whole["ema_updates"]
    assert all(torch.equal(value, parts["ema"][name]) for name, value in whole["ema"].items())


def test_held_out_people_are_measured_by_the_average(
    drawn_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = []

    def noted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(task: PoseTask, model: nn.Module, stage: Stage) -> Any:
            measured.append({name: value.clone() for name, value in model.state_dict().items()})
            return function(task, model, stage)

        return call

    monkeypatch.setattr(PoseTask, "evaluate", noted(PoseTask.evaluate))
    monkeypatch.setattr(PoseTask, "draw", noted(PoseTask.draw))
    content = run(dataclasses.replace(POSE, stages=(Stage(1, 64, 64, batch=8),)), drawn_folder, tmp_path)
    assert len(measured) == 2
    assert all(torch.equal(value, content["ema"][name]) for state in measured for name, value in state.items())
    name = "trunk.stages.0.0.conv3x3"
    assert not torch.equal(content["ema"][name], content["model"][name])


@pytest.mark.parametrize("recipe", [POSE, DETECTOR], ids=lambda recipe: recipe.task)
def test_measuring_a_network_that_was_just_learning_neither_reads_nor_changes_the_batch_s_statistics(
    recipe: Recipe, drawn_folder: Path
) -> None:
    dataset = load_coco(drawn_folder, "train")
    ready = prepare(recipe, dataset, CPU, amp=False)
    before = {name: value.clone() for name, value in ready.model.train().state_dict().items()}
    ready.task.evaluate(ready.model, recipe.stages[0])
    assert all(torch.equal(value, before[name]) for name, value in ready.model.state_dict().items())


@pytest.mark.parametrize("recipe", [POSE, DETECTOR], ids=lambda recipe: recipe.task)
def test_nothing_of_a_picture_held_out_is_learnt_from(recipe: Recipe, drawn_folder: Path) -> None:
    dataset = load_coco(drawn_folder, "train")
    partly = np.where(np.arange(24) % 3 == 0, "lspet", "coco")
    dataset = dataclasses.replace(dataset, sources=partly)
    ready = prepare(recipe, dataset, CPU, amp=False)
    held = np.flatnonzero(held_pictures(dataset.image_ids, recipe.holdout))
    task: Any = ready.task
    if recipe.task == "pose":
        learnt, measured = task.crops.people.picture, task.held.picture
        assert len(learnt) + len(measured) == len(dataset.people)
    else:
        learnt, measured = torch.cat([task.train, task.mixed_in]), task.held
    assert len(held) > 2 and set(measured.tolist()) <= set(held.tolist()) and len(measured)
    assert not set(learnt.tolist()) & set(held.tolist())
    assert set(learnt.tolist()) == set(range(24)) - set(held.tolist())


def test_every_version_holds_out_the_same_pictures() -> None:
    """Who goes on from another version's checkpoint would be measured on what that one had learnt."""
    few, many = np.arange(200), np.arange(200) * 10**12 + 7
    assert np.flatnonzero(held_pictures(few, 0.04)).tolist() == [0, 13, 34, 68, 89, 102, 123, 157, 178]
    assert np.flatnonzero(held_pictures(many, 0.04)).tolist() == [3, 22, 41, 60, 79, 98, 117, 136, 155, 174, 193]


@pytest.mark.parametrize(("points", "height", "learnt"), [(3, 32, True), (2, 32, False), (3, 31, False)])
def test_whoever_hardly_shows_is_not_learnt_from(points: int, height: float, learnt: bool, drawn_folder: Path) -> None:
    dataset = load_coco(drawn_folder, "train")
    people = dataset.people
    people.labelled[0, points:] = False
    people.boxes[0, 3] = people.boxes[0, 1] + height
    task = PoseTask(POSE, dataset, np.zeros(24, bool))
    assert len(task) == len(people) - (not learnt)
    assert 0 in task.crops.row_of.tolist() or not learnt


def test_a_network_s_start_is_its_seed_s(drawn_folder: Path) -> None:
    dataset = load_coco(drawn_folder, "train")
    recipes = (POSE, POSE, dataclasses.replace(POSE, seed=1))
    same, again, other = (prepare(recipe, dataset, CPU, amp=False).model.state_dict() for recipe in recipes)
    name = "trunk.stages.1.0.conv3x3"
    assert torch.equal(same[name], again[name]) and not torch.equal(same[name], other[name])
    assert build_network(POSE).state_dict().keys() == same.keys()
