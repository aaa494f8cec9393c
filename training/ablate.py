"""`okdhp ablate`: trains every row of a recipe's ablation with several seeds, and goes on where it stopped."""

import copy
import dataclasses
import json
import logging
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from app.digest import sha256
from model.export import cost, deploy
from model.okdhp import OKDHP
from training.ablation_table import Result, draw, markdown
from training.checkpoint import CheckpointError, load_checkpoint
from training.commands import device_to_train_on, hardware, wants_amp
from training.config import Recipe, RecipeError
from training.data import Dataset, identity
from training.datasets import load_dataset
from training.detector_task import DetectorTask
from training.kept import kept_branch
from training.measurable import check_best, check_measurable, named_score
from training.pose_task import PoseTask
from training.recipes import load_recipe, recipe_from_dict
from training.restore import build_network, restore
from training.rows import Row, ablation_rows
from training.stopping import Stopped
from training.train import Start, task_of, train

log = logging.getLogger("okdhp.ablate")


@dataclass(frozen=True)
class Bench:
    """What every row is trained and measured on, and where it is kept."""

    train_set: Dataset
    val_set: Dataset
    out: Path
    device: torch.device
    amp: bool
    about: dict[str, str]
    init: Path | None = None

    def folder(self, row: str, seed: int) -> Path:
        return self.out / row / f"seed{seed}"

    @cached_property
    def learnt_and_measured(self) -> dict[str, dict[str, str]]:
        """Tells both splits from others, wherever they are: the text in `about` counts people and names a folder."""
        return {"train": identity(self.train_set), "val": identity(self.val_set)}

    def made(self, content: dict[str, Any]) -> bool:
        """Whether a result.json is of this bench's data and start; older ones know the data's text alone."""
        same = content.get("init", "") == self.about.get("init", "")
        if "identity" in content:
            return same and bool(content["identity"] == self.learnt_and_measured)
        return same and bool(content["data"] == self.about["data"])


def run_ablation(
    recipe: Path, data: Path, out: Path, seeds: int, rows: list[str] | None, teacher: Path | None,
    device: str, amp: str, limit: int | None, init: Path | None = None,
) -> str:  # fmt: skip
    """Run the rows of `recipe` on `data`, scored on its val.json; returns the table, also in out/ablation.md and .png.

    rows: their names, all unless given, and their teachers. teacher: a recipe in place of the derived heavy one.
    init: a checkpoint whose trunk every row starts from, branches and FAU being new in all of them.
    """
    base = load_recipe(recipe)
    chosen = choose(ablation_rows(base, load_recipe(teacher) if teacher else None, init is not None), rows)
    if seeds < 1:
        raise ValueError(f"--seeds must be at least 1, got {seeds}")
    check_teacher_fits(chosen)
    bench = open_bench(base, data, out, device_to_train_on(device), amp, limit, init)
    check_data(chosen, bench)
    results: list[Result] = []
    for seed in range(base.seed, base.seed + seeds):
        for row in chosen:
            try:
                results.append(run_row(bench, row, seed, results))
            except Stopped:
                log.warning("stopped in %s; the same command goes on from there", bench.folder(row.name, seed))
                print(markdown(results, base, bench.about))
                raise
            (out / "ablation.md").write_text(markdown(results, base, bench.about))
            draw(results, base, bench.about, out / "ablation.png")
    return markdown(results, base, bench.about)


def open_bench(
    base: Recipe, data: Path, out: Path, device: torch.device, amp: str, limit: int | None, init: Path | None
) -> Bench:
    """The bench for the rows of `base`; the other arguments are run_ablation's."""
    train_set, val_set = load_dataset(data, "train", device, limit), load_dataset(data, "val", device, limit)
    size = f"{len(train_set.people)} people of {data.name}, split train, {len(val_set.people)} of split val"
    about = {"data": size, "hardware": hardware(device), "score": named_score(base.task, train_set.joints)}
    if init is not None:
        about["init"] = f"{init.name} ({sha256(init)[:12]})"
    return Bench(train_set, val_set, out, device, wants_amp(amp, device), about, init)


def choose(rows: tuple[Row, ...], names: list[str] | None) -> list[Row]:
    """The rows called `names` and those that teach them, in the table's order; all of them without names."""
    known = [row.name for row in rows]
    unknown = sorted(set(names or ()) - set(known))
    if unknown:
        raise ValueError(f"no row {unknown[0]!r}; the rows are {', '.join(known)}")
    teachers = {row.teacher for row in rows if row.name in (names or ())}
    return [row for row in rows if not names or row.name in names or row.name in teachers]


def check_teacher_fits(rows: list[Row]) -> None:
    """Raises RecipeError where the row that teaches cannot see what its pupils see, or has heatmaps of another size.

    It is trained long before them: what would stop them then is said now.
    """
    pupil = next((row.recipe for row in rows if row.teacher), None)
    if pupil is None:
        return
    teacher = next(row.recipe for row in rows if row.name == "teacher")
    try:
        shown = dataclasses.replace(teacher, stages=pupil.stages)
    except RecipeError as error:
        raise RecipeError(f"{teacher.name}: this teacher cannot see what {pupil.name} sees: {error}") from error
    seen, wanted = heatmap_size(shown), heatmap_size(pupil)
    if seen != wanted:
        (height, width), (h, w) = seen, wanted
        raise RecipeError(f"{teacher.name}: cannot teach {pupil.name}: its heatmaps are {height}x{width}, not {h}x{w}")


@torch.no_grad()
def heatmap_size(recipe: Recipe) -> tuple[int, int]:
    """Height and width of the heatmaps that the recipe's network predicts at its last stage."""
    last = recipe.stages[-1]
    outputs = build_network(recipe).eval()(torch.zeros(1, 3, last.height, last.width))
    height, width = outputs.ensemble.shape[2:]
    return height, width


def check_data(rows: list[Row], bench: Bench) -> None:
    """Raises DataError where a row could not be trained to its end or measured, before the first one is trained."""
    check_measurable(bench.val_set, rows[0].recipe.task, "in split val")
    for row in rows:
        check_best(row.recipe, bench.train_set)
        if row.name == "teacher":  # the others learn in batches like the first one's
            task_of(row.recipe, bench.train_set)


def run_row(bench: Bench, row: Row, seed: int, before: list[Result]) -> Result:
    """The row's result, read where it was finished before, else trained.

    Raises CheckpointError where the folder holds the result of another recipe, start or data, and Stopped.
    """
    recipe = dataclasses.replace(row.recipe, seed=seed)
    folder = bench.folder(row.name, seed)
    done = folder / "result.json"
    if done.exists():
        content = json.loads(done.read_text())
        if recipe_from_dict(content["recipe"]) != recipe or not bench.made(content):
            raise CheckpointError(f"{done}: is of another recipe, start or other data; choose another output folder")
        return Result(**content["result"])
    log.info("%s, seed %d: %s", row.name, seed, row.what)
    teacher = bench.folder(row.teacher, seed) / "last.pt" if row.teacher else None
    path = train(
        recipe,
        bench.train_set,
        folder,
        device=bench.device,
        amp=bench.amp,
        start=Start(bench.init, "trunk.", teacher),
        about=bench.about,
    )
    taught_by = next((r for r in before if (r.row, r.seed) == (row.teacher, seed)), None)
    result = measure(bench, row, recipe, load_checkpoint(path), taught_by)
    partial = done.with_suffix(".partial")
    values: dict[str, Any] = {"result": dataclasses.asdict(result), "recipe": dataclasses.asdict(recipe)}
    values.update({key: value for key, value in bench.about.items() if key in ("data", "init")})
    values["identity"] = bench.learnt_and_measured
    partial.write_text(json.dumps(values, indent=1))
    os.replace(partial, done)
    return result


def measure(bench: Bench, row: Row, recipe: Recipe, content: dict[str, Any], teacher: Result | None) -> Result:
    """Score and cost of the finished checkpoint `content`."""
    _, model = restore(content)
    kept, finest = kept_branch(recipe, content["history"]), recipe.stages[-1]
    kind = PoseTask if recipe.task == "pose" else DetectorTask
    everything = np.ones(len(bench.val_set.pictures), dtype=bool)
    scores = kind(recipe, bench.val_set, everything).evaluate(model.to(bench.device), finest)
    model.to("cpu")
    size_hw = (finest.height, finest.width)
    deployed = cost(deploy(copy.deepcopy(model), kept, recipe.task, bench.val_set.joints.sigmas), size_hw)
    gmacs, hours = forward_gmacs(model, size_hw), float(content["hours"])
    if teacher is not None:  # its own training, and its forward pass beside the student's
        gmacs, hours = gmacs + teacher.training_gmacs + teacher.gmacs, hours + teacher.hours
    return Result(
        row=row.name,
        what=row.what,
        seed=recipe.seed,
        kept=kept,
        score=scores[kept],
        training_gmacs=round(gmacs, 4),
        hours=hours,
        gmacs=deployed["gmacs"],
        parameters=int(deployed["parameters"]),
    )


@torch.no_grad()
def forward_gmacs(model: OKDHP, size_hw: tuple[int, int]) -> float:
    """Multiply-adds in 1e9 of trunk, FAU and all branches for one picture."""
    with FlopCounterMode(display=False) as counter:
        model.eval()(torch.zeros(1, 3, *size_hw))
    return float(counter.get_total_flops() / 2e9)
