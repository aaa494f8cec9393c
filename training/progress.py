"""How far a training run is, and its checkpoint."""

import dataclasses
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from training.config import Recipe
from training.data import Dataset, identity
from training.joints import COCO
from training.recipes import recipe_from_dict
from training.restore import joints_of

if TYPE_CHECKING:  # the loop imports this file
    from training.train import Run

log = logging.getLogger("okdhp.train")


def facts_of(dataset: Dataset, about: dict[str, str] | None) -> dict[str, str]:
    """What a checkpoint says of its run: `about`, the joints that were learnt, the annotations and the pictures."""
    known = identity(dataset)
    facts = {"joints": dataset.joints.name, "annotations": known["people"], "pictures": known["pictures"]}
    return {**(about or {}), **facts}


def goes_on(
    path: Path, recipe: Recipe, teacher: str, about: dict[str, str], before: list[dict[str, Any]]
) -> dict[str, Any] | None:
    """The checkpoint `path` for a run of these facts to go on from; None where there is none yet.

    teacher: its digest, "" without one. about, before: as Progress has them.
    Raises CheckpointError if it is another recipe's, teacher's, data's or start's.
    """
    if not path.exists():
        return None
    content = load_checkpoint(path)

    def require(same: bool, otherwise: str) -> None:
        if not same:
            raise CheckpointError(f"{path}: {otherwise}; choose another output folder")

    if not content["model"]:
        raise CheckpointError(f"{path}: is a slim checkpoint: a run can start from it (--init), not go on")
    # Of some facts older checkpoints do not tell; keys of recipes that came later have their defaults.
    require(recipe_from_dict(content["recipe"]) == recipe, "belongs to another recipe")
    require(not teacher or content.get("teacher") == teacher, "was taught by another teacher")
    require(joints_of(content).name == about.get("joints", COCO.name), "has learnt other keypoints")
    require(content.get("detector", "") == about.get("detector", ""), "has learnt from another detector")
    fault = data_fault(content, about)
    require(not fault, fault)
    if before and "before" in content:
        known = content["before"]
        started = f'another checkpoint (of "{known[-1]["recipe"]}")' if known else "no checkpoint"
        same = bool(known) and known[-1]["sha256"] == before[-1]["sha256"]
        require(same, f"was started from {started} (--init)")
    return content


def data_fault(content: dict[str, Any], about: dict[str, str]) -> str:
    """What the checkpoint `content` has learnt from in place of what a run of the facts `about` has; "" if the same.

    Its digests tell, where it has them: the text `data` names the folder, which may have been moved.
    """
    digests = [name for name in ("annotations", "pictures") if content.get(name)]
    others = [name for name in digests if content[name] != about.get(name)]
    data, now = content.get("data", ""), about.get("data", "")
    if data and data != now and (others or not digests):
        return f"has learnt from {data}, not {now}"
    return f"has learnt from other {others[0]}" if others else ""


class Progress:
    """Finished epochs, steps into the next one, and the sums of its loss terms so far; hours and history of all.

    before: the runs whose weights this one started from (training.checkpoint.lineage).
    """

    def __init__(self, run: "Run", path: Path, about: dict[str, str], before: list[dict[str, Any]]) -> None:
        self.run, self.path, self.about, self.before = run, path, about, before
        self.epoch, self.step, self.hours = 0, 0, 0.0
        self.sums: dict[str, float] = {}
        self.history: list[dict[str, Any]] = []
        self.began = time.monotonic()
        recipe = run.recipe
        steps = [len(run.task) // recipe.stage_of(e).batch for e in range(recipe.epochs)]
        self.cumulative = np.cumsum([0, *steps]) / sum(steps)

    def done_before(self, epoch: int) -> float:
        """Share 0..1 of all steps before `epoch`."""
        return float(self.cumulative[epoch])

    def share_of(self, epoch: int) -> float:
        """Share 0..1 of all steps in `epoch`."""
        return float(self.cumulative[epoch + 1] - self.cumulative[epoch])

    def resume(self) -> None:
        """Continue from the checkpoint if there is one.

        Raises CheckpointError if it is another recipe's, data's or start's.
        """
        run = self.run
        content = goes_on(self.path, run.recipe, run.teacher.identity if run.teacher else "", self.about, self.before)
        if content is None:
            return
        run.model.load_state_dict(content["model"])
        run.ema.model.load_state_dict(content["ema"])
        run.ema.updates = content["ema_updates"]
        run.optimiser.load_state_dict(content["optimiser"])
        self.epoch, self.hours, self.history = content["epoch"], content["hours"], content["history"]
        self.step, self.sums = content.get("step", 0), content.get("sums", {})
        self.before = content.get("before", [])
        log.info("resumed %s after epoch %d, step %d", self.path, self.epoch, self.step)

    def finish(self, epoch: int, means: dict[str, float], scores: dict[str, float], saved: bool) -> None:
        """Note the epoch's figures; where it is to be `saved`, write the checkpoint."""
        self.history.append({"epoch": epoch, "losses": means, "scores": scores})
        self.epoch, self.step, self.sums = epoch + 1, 0, {}
        if saved:
            self._save()

    def interrupt(self, epoch: int, step: int, sums: dict[str, float]) -> None:
        """Note the steps done in an epoch that is left here; the leading process writes the checkpoint."""
        self.epoch, self.step, self.sums = epoch, step, sums
        if self.run.group.leads:
            self._save()

    def _save(self) -> None:
        run, now = self.run, time.monotonic()
        self.hours, self.began = self.hours + (now - self.began) / 3600, now
        content = {
            "recipe": dataclasses.asdict(run.recipe),
            "model": run.model.state_dict(),
            "ema": run.ema.model.state_dict(),
            "ema_updates": run.ema.updates,
            "optimiser": run.optimiser.state_dict(),
            "epoch": self.epoch,
            "step": self.step,
            "sums": self.sums,
            "hours": self.hours,
            "history": self.history,
            "before": self.before,
            "torch": str(torch.__version__),
            "teacher": run.teacher.identity if run.teacher is not None else "",
            **self.about,
        }
        save_checkpoint(self.path, content)
