"""Which branch of a trained network is the student, and which would teach best."""

import math
from typing import Any

from training.checkpoint import CheckpointError
from training.config import BEST, Recipe


def last_scores(history: list[dict[str, Any]]) -> dict[str, float]:
    """The newest scores in a run's `history`, whose epochs need not all have some; none where there are none."""
    scores: dict[str, float] = next((entry["scores"] for entry in reversed(history) if entry["scores"]), {})
    return scores


def best_branch(recipe: Recipe, history: list[dict[str, Any]]) -> str | None:
    """The branch with the best of the last scores in `history`; None without any.

    Those scores are of the averaged weights on the people held out of training, never on a split that is reported.
    """
    scores = last_scores(history)
    known = [branch.name for branch in recipe.branches if math.isfinite(scores.get(branch.name, math.nan))]
    return max(known, key=lambda name: float(scores[name])) if known else None


def kept_branch(recipe: Recipe, history: list[dict[str, Any]]) -> str:
    """The branch that `recipe.kept` names or, for "best", `best_branch`.

    Raises CheckpointError where "best" has no scores to go by.
    """
    if recipe.kept != BEST:
        return recipe.kept
    best = best_branch(recipe, history)
    if best is None:
        raise CheckpointError(
            f"{recipe.name}: no held-out scores to choose the best branch by; name one (export --branch)"
        )
    return best


def teaching_branch(recipe: Recipe, history: list[dict[str, Any]]) -> str:
    """The branch that others learn from: the best one, which need not be the one to deploy, or else the kept one."""
    return best_branch(recipe, history) or kept_branch(recipe, history)
