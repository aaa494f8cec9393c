import dataclasses
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch._dynamo
from drawn import changed
from small_runs import DETECTOR, POSE, run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from model.okdhp import OKDHP
from training.checkpoint import load_checkpoint
from training.config import Recipe, Stage
from training.data import held_pictures
from training.divergence import NonFiniteLoss, check_finite, divergence_named
from training.ema import EMA
from training.pictures import DataError
from training.pose_task import PoseTask, build_model
from training.snapshots import draw_boxes
from training.train import Start, learning_rate


@pytest.mark.parametrize("recipe", [POSE, DETECTOR])
def test_each_named_loss_falls_and_every_branch_is_scored(recipe: Recipe, drawn_folder: Path, tmp_path: Path) -> None:
    longer = dataclasses.replace(recipe, stages=(Stage(8, 64, 64, batch=8),), learning_rate=5e-3)
    content = run(longer, drawn_folder, tmp_path)
    first, last = content["history"][0], content["history"][-1]
    supervised = [name for name in first["losses"] if not name.startswith("kl/")]
    assert {name.split("/")[1] for name in supervised} == {"a", "b", "ensemble"}
    assert {"kl/a", "kl/b"} <= set(first["losses"])
    still = [
        name for name in supervised if not name.startswith("quality/")
    ]  # what a score shall be grows with the boxes
    assert all(last["losses"][name] < first["losses"][name] for name in still)
    assert {"a", "b"} <= set(last["scores"])


def test_interrupted_and_resumed_run_equals_the_uninterrupted_one(drawn_folder: Path, tmp_path: Path) -> None:
    whole = run(POSE, drawn_folder, tmp_path / "whole")
    part = run(POSE, drawn_folder, tmp_path / "parts", max_hours=0.0)
    assert part["epoch"] == 1
    while part["epoch"] < POSE.epochs:
        part = run(POSE, drawn_folder, tmp_path / "parts", max_hours=0.0)
    for kind in ("model", "ema"):
        for name, value in whole[kind].items():
            torch.testing.assert_close(part[kind][name], value, rtol=0, atol=0, msg=name)
    assert [entry["scores"] for entry in part["history"]] == [entry["scores"] for entry in whole["history"]]


def test_a_run_evaluated_now_and_then_learns_the_same_and_scores_its_last_epoch(
    drawn_folder: Path, tmp_path: Path
) -> None:
    """One that is stopped is measured and saved where it stops, and goes on from there."""
    seldom = dataclasses.replace(POSE, evaluate_every=2)
    whole = run(POSE, drawn_folder, tmp_path / "whole")
    part = run(seldom, drawn_folder, tmp_path / "seldom", max_hours=0.0)
    assert part["epoch"] == 1
    assert part["history"] == whole["history"][:1]
    assert run(seldom, drawn_folder, tmp_path / "seldom")["history"] == whole["history"]
    once = run(dataclasses.replace(POSE, evaluate_every=3), drawn_folder, tmp_path / "once")
    assert [entry["losses"] for entry in once["history"]] == [entry["losses"] for entry in whole["history"]]
    assert [entry["scores"] for entry in once["history"]] == [{}, {}, whole["history"][2]["scores"]]


def test_a_run_that_breaks_off_has_saved_what_was_measured_last(
    drawn_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seldom, losses, saved = dataclasses.replace(POSE, evaluate_every=2), PoseTask.losses, []
    for breaks_in_epoch in (1, 2):
        steps = iter(range(3 * breaks_in_epoch))  # three an epoch

        def until_it_breaks(*arguments: Any, steps: Iterator[int] = steps) -> Any:
            if next(steps, None) is None:
                raise MemoryError
            return losses(*arguments)

        monkeypatch.setattr(PoseTask, "losses", until_it_breaks)
        with pytest.raises(MemoryError):
            run(seldom, drawn_folder, tmp_path)
        saved.append((tmp_path / "last.pt").exists())
    assert saved == [False, True]
    assert load_checkpoint(tmp_path / "last.pt")["epoch"] == 2


def test_what_is_measured_and_drawn_are_the_averaged_weights_that_will_be_deployed(
    drawn_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, torch.Tensor]] = []

    def noted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(task: PoseTask, model: OKDHP, stage: Stage) -> Any:
            seen.append({name: value.clone() for name, value in model.state_dict().items()})
            return function(task, model, stage)

        return call

    monkeypatch.setattr(PoseTask, "evaluate", noted(PoseTask.evaluate))
    monkeypatch.setattr(PoseTask, "draw", noted(PoseTask.draw))
    content = run(dataclasses.replace(POSE, stages=(Stage(1, 64, 64, batch=8),)), drawn_folder, tmp_path)
    assert len(seen) == 2
    assert all(torch.equal(weights[name], value) for weights in seen for name, value in content["ema"].items())
    assert any(not torch.equal(value, content["model"][name]) for name, value in content["ema"].items())


def test_a_run_says_what_the_weights_it_starts_from_score(
    drawn_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "okdhp.train")
    before = run(POSE, drawn_folder, tmp_path / "before")["history"][-1]["scores"]
    assert "before epoch 1" not in caplog.text, "untrained weights score nothing that anybody could lose"
    start = Start(init=tmp_path / "before" / "last.pt")
    run(dataclasses.replace(POSE, seed=1), drawn_folder, tmp_path / "after", start=start, max_hours=0.0)
    shown = " ".join(f"{branch} {score:.4f}" for branch, score in before.items())
    assert re.search(rf"before epoch 1  held-out oks_share: {shown} \(of [1-9]\d*\)$", caplog.text, flags=re.MULTILINE)
    caplog.clear()
    run(dataclasses.replace(POSE, seed=1), drawn_folder, tmp_path / "after", start=start)
    assert "before epoch 1" not in caplog.text, "a run that goes on has begun"


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")  # the compiler warns of parts of its own
@pytest.mark.timeout(300)
def test_a_compiled_network_learns_what_the_plain_one_does(drawn_folder: Path, tmp_path: Path) -> None:
    once = dataclasses.replace(POSE, stages=(Stage(1, 64, 64, batch=8),), learning_rate=1e-4)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    plain = run(once, drawn_folder, tmp_path / "plain")
    assert not torch._dynamo.utils.counters["stats"]
    compiled = run(once, drawn_folder, tmp_path / "compiled", compiled=True)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert compiled["history"][0]["losses"] == pytest.approx(plain["history"][0]["losses"], rel=1e-3)
    assert set(compiled["model"]) == set(plain["model"])


def test_held_out_people_are_measured_in_full_precision_however_the_network_learns(
    drawn_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bfloat16 a detector's recall was ten points lower than the same weights' when deployed."""
    seen = {"forward": set(), "evaluate": set()}

    def noted(kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            seen[kind].add(torch.is_autocast_enabled("cpu"))
            return function(*arguments)

        return call

    monkeypatch.setattr(OKDHP, "forward", noted("forward", OKDHP.forward))
    monkeypatch.setattr(PoseTask, "evaluate", noted("evaluate", PoseTask.evaluate))
    run(dataclasses.replace(POSE, stages=(Stage(1, 64, 64, batch=8),)), drawn_folder, tmp_path, amp=True)
    assert seen == {"forward": {True, False}, "evaluate": {False}}


@pytest.mark.parametrize("recipe", [POSE, DETECTOR])
def test_every_epoch_draws_what_the_network_sees(recipe: Recipe, drawn_folder: Path, tmp_path: Path) -> None:
    run(recipe, drawn_folder, tmp_path)
    events = EventAccumulator(str(tmp_path), size_guidance={"images": 0}).Reload()
    shown = events.Images("held-out")
    assert [image.step for image in shown] == [0, 1, 2]
    last = recipe.stages[-1]
    assert (shown[-1].height, shown[-1].width % last.width) == (2 * last.height, 0)


def test_distillation_changes_what_is_learnt(drawn_folder: Path, tmp_path: Path) -> None:
    with_kd = run(dataclasses.replace(POSE, kd_ramp=0.1), drawn_folder, tmp_path / "on")
    without = run(dataclasses.replace(POSE, kd_weight=0.0), drawn_folder, tmp_path / "off")
    assert "kl/a" not in without["history"][0]["losses"]
    name = "branches.a.head.weight"
    assert not torch.allclose(with_kd["model"][name], without["model"][name])


@pytest.mark.parametrize("recipe", [POSE, DETECTOR], ids=["pose", "detector"])
def test_the_best_branch_is_not_chosen_by_people_too_small_to_be_measured(
    drawn_folder: Path, tmp_path: Path, recipe: Recipe
) -> None:
    def edit(content: dict[str, Any]) -> None:
        for person in content["annotations"]:
            person["bbox"][3] = 60

    folder, best = changed(drawn_folder, tmp_path / "small", edit), dataclasses.replace(recipe, kept="best")
    complaint = r"of \d+ people held out none can be measured to choose the best branch by: name a branch in kept$"
    with pytest.raises(DataError, match=complaint):
        run(best, folder, tmp_path / "run")


@pytest.mark.parametrize("recipe", [POSE, DETECTOR], ids=["pose", "detector"])
def test_without_anybody_held_out_a_run_ends_without_scores(drawn_folder: Path, tmp_path: Path, recipe: Recipe) -> None:
    alone = dataclasses.replace(recipe, holdout=0.0, stages=(Stage(1, 64, 64, batch=8),))
    assert [epoch["scores"] for epoch in run(alone, drawn_folder, tmp_path)["history"]] == [{}]


def test_the_best_branch_is_not_chosen_by_nobody(drawn_folder: Path, tmp_path: Path) -> None:
    few = dataclasses.replace(POSE, kept="best", holdout=0.001, stages=(Stage(1, 64, 64, batch=8),))
    with pytest.raises(DataError, match="of 24 pictures none is held out to choose the best branch by"):
        run(few, drawn_folder, tmp_path)


def test_a_loss_that_is_not_finite_stops_the_run_and_is_named(drawn_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(NonFiniteLoss, match=r"epoch 1, step 1: mse/ensemble not finite among .*mse/a \d"):
        run(dataclasses.replace(POSE, ensemble_weight=float("inf")), drawn_folder, tmp_path)
    assert not (tmp_path / "last.pt").exists()


def test_too_few_examples_for_a_batch_are_refused(drawn_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="do not fill one batch"):
        run(dataclasses.replace(POSE, stages=(Stage(1, 64, 64, batch=999),)), drawn_folder, tmp_path)


def test_held_out_pictures_depend_on_their_ids_alone() -> None:
    ids = np.arange(20000)
    held = held_pictures(ids, 0.04)
    assert 0.03 < held.mean() < 0.05
    assert (held_pictures(ids[::-1], 0.04) == held[::-1]).all()
    assert not held_pictures(ids, 0.0).any()


def test_learning_rate_warms_up_and_ends_at_nothing() -> None:
    recipe = dataclasses.replace(POSE, learning_rate=1.0, warmup_epochs=1.0)
    assert learning_rate(recipe, 0.0, 0.0) < 0.01
    assert learning_rate(recipe, 0.1, 1.0) == pytest.approx(0.976, abs=0.001)
    assert learning_rate(recipe, 1.0, 3.0) == pytest.approx(0.0)


@pytest.mark.parametrize(("recipe", "rate"), [(POSE, 1e4), (DETECTOR, 1e12)])
def test_a_learning_rate_that_is_too_high_is_named_as_the_cause(
    recipe: Recipe, rate: float, drawn_folder: Path, tmp_path: Path
) -> None:
    """Where the losses still are finite, decoding or drawing is the first to fail, or the next loss."""
    with pytest.raises(NonFiniteLoss, match=re.escape(f"not finite; lower learning_rate, which is {rate:g}")):
        run(dataclasses.replace(recipe, learning_rate=rate, warmup_epochs=0.0), drawn_folder, tmp_path)


def test_a_failure_of_another_kind_keeps_its_own_name() -> None:
    with pytest.raises(KeyError), divergence_named((build_model(POSE),), POSE.stages[0], epoch=0, rate=1.0):
        raise KeyError("unforeseen")


def test_where_nobody_is_annotated_no_smaller_batch_is_advised(drawn_folder: Path, tmp_path: Path) -> None:
    def edit(content: dict[str, Any]) -> None:
        content["annotations"] = []

    nobody = changed(drawn_folder, tmp_path / "nobody", edit)
    with pytest.raises(DataError, match="nobody to learn poses from: of 0 annotated people none has"):
        run(POSE, nobody, tmp_path / "run")
    with pytest.raises(DataError, match="a detector learns from people's boxes, and there are none"):
        run(DETECTOR, nobody, tmp_path / "run")


def test_boxes_larger_than_opencvs_integers_are_drawn_as_far_as_the_picture_goes() -> None:
    drawn = draw_boxes(np.zeros((20, 20, 3), np.uint8), np.array([[-1e12, 5.0, 1e12, 1e12]]))
    assert drawn[5, 10].any() and not drawn[12, 10].any()


def test_learning_rate_stays_until_the_cooldown() -> None:
    recipe = dataclasses.replace(POSE, learning_rate=1.0, warmup_epochs=0.0, cooldown=0.4)
    rates = [learning_rate(recipe, fraction, 1.0) for fraction in (0.0, 0.6, 0.8, 1.0)]
    assert rates == pytest.approx([1.0, 1.0, 0.5, 0.0])


def test_tensorboard_shows_every_term(drawn_folder: Path, tmp_path: Path) -> None:
    (epoch,) = run(POSE, drawn_folder, tmp_path, max_hours=0.0)["history"]
    board = EventAccumulator(str(tmp_path))
    board.Reload()
    for name, value in (("loss/mse/a", epoch["losses"]["mse/a"]), ("oks_share/a", epoch["scores"]["a"])):
        assert [(event.step, event.value) for event in board.Scalars(name)] == [(0, pytest.approx(value))]
    assert {"loss/mse/a", "loss/kl/b", "loss/mse/ensemble", "oks_share/a", "oks_share/ensemble"} <= set(
        board.Tags()["scalars"]
    )


def test_average_starts_afresh_with_each_input_size(drawn_folder: Path, tmp_path: Path) -> None:
    content = run(POSE, drawn_folder, tmp_path)  # two epochs of one size, one of another
    steps_in_the_last_stage = 29 // 8
    assert content["ema_updates"] <= steps_in_the_last_stage + 1


def test_average_follows_the_weights_and_copies_the_counters() -> None:
    model = build_model(POSE)
    average = EMA(model, decay=0.5)
    name = "trunk.stages.0.0.scale3x3"
    with torch.no_grad():
        model.trunk.stages[0][0].scale3x3 += 1.0
        model.trunk.stages[0][0].norm.num_batches_tracked += 7
    average.update(model)  # the first updates forget faster: 2/11 of the past is kept
    torch.testing.assert_close(average.model.state_dict()[name], model.state_dict()[name] - 2 / 11)
    assert int(average.model.state_dict()["trunk.stages.0.0.norm.num_batches_tracked"]) == 7
    average.restart(model)
    torch.testing.assert_close(average.model.state_dict()[name], model.state_dict()[name])


def test_the_first_step_that_went_wrong_is_named_not_the_one_that_was_looked_at() -> None:
    fine, bad = torch.tensor(1.0), torch.tensor(float("nan"))
    steps = [{"mse/a": fine, "kl/b": fine}, {"mse/a": fine, "kl/b": bad}, {"mse/a": bad, "kl/b": bad}]
    with pytest.raises(NonFiniteLoss, match=r"epoch 3, step 20: kl/b not finite among mse/a 1, kl/b nan"):
        check_finite(steps, epoch=2, step=20)
    check_finite(steps[:1], epoch=2, step=20)
