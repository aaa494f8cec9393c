"""What an epoch ends with: scores and pictures every so often, the checkpoint, a line in the log and TensorBoard."""

import logging
from typing import TYPE_CHECKING

from torch.utils.tensorboard import SummaryWriter

from training.config import Recipe
from training.progress import Progress

if TYPE_CHECKING:  # the loop imports this file
    from training.train import Run

log = logging.getLogger("okdhp.train")


def conclude(
    run: "Run", state: Progress, board: SummaryWriter, epoch: int, means: dict[str, float], last: bool
) -> None:
    """Note an epoch's losses; after the `last` one and every so often before, as the recipe says, measure and save."""
    recipe, task, stage = run.recipe, run.task, run.recipe.stage_of(epoch)
    due = last or (epoch + 1) % recipe.evaluate_every == 0
    scores: dict[str, float] = {}
    drawn = None
    if due:  # in full precision, as it will be deployed: bfloat16 takes ten points off a detector's recall
        scores, drawn = task.evaluate(run.ema.model, stage), task.draw(run.ema.model, stage)
    state.finish(epoch, means, scores, due)
    report(board, epoch, recipe, task.score_name, means, scores)
    if drawn is not None:
        board.add_image("held-out", drawn, epoch, dataformats="HWC")


def say_start(run: "Run") -> None:
    """Measure the weights that a run starts from: where an epoch's scores are lower, it has made them worse."""
    scores = run.task.evaluate(run.ema.model, run.recipe.stage_of(0))
    if scores:
        log.info("before epoch 1%s (of %d)", _measured(run.task.score_name, scores), len(run.task.held))


def _measured(name: str, scores: dict[str, float]) -> str:
    shown = " ".join(f"{key} {value:.4f}" for key, value in scores.items())
    return f"  held-out {name}: {shown}" if scores else ""


def report(
    board: SummaryWriter, epoch: int, recipe: Recipe, name: str, means: dict[str, float], scores: dict[str, float]
) -> None:
    """One line in the log, the same in TensorBoard."""
    for key, value in means.items():
        board.add_scalar(f"loss/{key}", value, epoch)
    for key, value in scores.items():
        board.add_scalar(f"{name}/{key}", value, epoch)
    losses = " ".join(f"{key} {value:.4f}" for key, value in means.items())
    log.info("epoch %d/%d  %s%s", epoch + 1, recipe.epochs, losses, _measured(name, scores))
