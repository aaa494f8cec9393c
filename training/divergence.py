"""A run whose numbers are no longer finite ends in one line that says so."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from model.okdhp import OKDHP, Outputs
from training.config import Stage


class NonFiniteLoss(ArithmeticError):
    """Training diverged; the message names each loss term, or what else is not finite."""


def check_finite(recent: list[dict[str, Tensor]], epoch: int, step: int) -> None:
    """Raises NonFiniteLoss for the first of the `recent` steps, the last being `step`, with a term that is not finite.

    Later steps say nothing: the first one's gradient has spoilt every weight.
    """
    first = step - len(recent) + 1
    for number, terms in enumerate(recent, start=first):
        values = {name: term.item() for name, term in terms.items()}
        if not all(math.isfinite(value) for value in values.values()):
            bad = ", ".join(name for name, value in values.items() if not math.isfinite(value))
            listed = ", ".join(f"{name} {value:g}" for name, value in values.items())
            raise NonFiniteLoss(f"epoch {epoch + 1}, step {number + 1}: {bad} not finite among {listed}")


@contextmanager
def divergence_named(models: tuple[OKDHP, ...], stage: Stage, epoch: int, rate: float) -> Iterator[None]:
    """Whatever fails inside while the answers of one of `models` are not finite raises NonFiniteLoss.

    Losses, decoding and drawing each fail in their own way on such numbers. rate: the recipe's learning rate.
    """
    try:
        yield
    except NonFiniteLoss:
        raise
    except Exception as error:
        if all(answers_are_finite(model, stage) for model in models):
            raise
        advice = f"lower learning_rate, which is {rate:g}"
        raise NonFiniteLoss(f"epoch {epoch + 1}: the network's answers are not finite; {advice}") from error


@torch.no_grad()
def answers_are_finite(model: OKDHP, stage: Stage) -> bool:
    """Whether `model` has finite heatmaps and boxes for pictures of noise of the stage's size."""
    device = next(model.parameters()).device
    noise = torch.rand(2, 3, stage.height, stage.width, generator=torch.Generator().manual_seed(0))
    outputs: Outputs = model.eval()((255 * noise).to(device))
    answers = [values for branch in outputs.branches.values() for values in (branch.final, branch.boxes)]
    return all(bool(values.isfinite().all()) for values in answers if values is not None)
