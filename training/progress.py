"""How far a training run is, and its checkpoint."""

import dataclasses
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from training.joints import COCO
from training.recipes import recipe_from_dict
from training.restore import joints_of

if TYPE_CHECKING:  # the loop imports this file
    from training.train import Run

log = logging.getLogger("okdhp.train")


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
        if not self.path.exists():
            return
        content, run = load_checkpoint(self.path), self.run
        if not content["model"]:
            raise CheckpointError(f"{self.path}: is a slim checkpoint: a run can start from it (--init), not go on")
        if recipe_from_dict(content["recipe"]) != run.recipe:  # keys that came later have their defaults
            raise CheckpointError(f"{self.path}: belongs to another recipe; choose another output folder")
        if run.teacher is not None and run.teacher.identity != content.get("teacher"):
            raise CheckpointError(f"{self.path}: was taught by another teacher; choose another output folder")
        if joints_of(content).name != self.about.get("joints", COCO.name):
            raise CheckpointError(f"{self.path}: has learnt other keypoints; choose another output folder")
        before, now = content.get("data", ""), self.about.get("data", "")
        if before and now != before:
            raise CheckpointError(f"{self.path}: has learnt from {before}, not {now}; choose another output folder")
        if content.get("detector", "") != self.about.get("detector", ""):
            raise CheckpointError(f"{self.path}: has learnt from another detector; choose another output folder")
        learnt = content.get("annotations", "")  # older checkpoints do not say
        if learnt and learnt != self.about.get("annotations"):
            raise CheckpointError(f"{self.path}: has learnt from other annotations; choose another output folder")
        if "before" in content:  # older checkpoints do not say
            self._check_start(content["before"])
        run.model.load_state_dict(content["model"])
        run.ema.model.load_state_dict(content["ema"])
        run.ema.updates = content["ema_updates"]
        run.optimiser.load_state_dict(content["optimiser"])
        self.epoch, self.hours, self.history = content["epoch"], content["hours"], content["history"]
        self.step, self.sums = content.get("step", 0), content.get("sums", {})
        self.before = content.get("before", [])
        log.info("resumed %s after epoch %d, step %d", self.path, self.epoch, self.step)

    def _check_start(self, known: list[dict[str, Any]]) -> None:
        """Raises CheckpointError where the run is to start from another checkpoint than it did, unless from none."""
        if self.before and (not known or known[-1]["sha256"] != self.before[-1]["sha256"]):
            started = f'another checkpoint (of "{known[-1]["recipe"]}")' if known else "no checkpoint"
            raise CheckpointError(f"{self.path}: was started from {started} (--init); choose another output folder")

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
