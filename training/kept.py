"""Which branch of a trained network is the student."""

import math
from typing import Any

from training.checkpoint import CheckpointError
from training.config import BEST, Recipe


def kept_branch(recipe: Recipe, history: list[dict[str, Any]]) -> str:
    """The branch that `recipe.kept` names or, for "best", the one with the best score in the last epoch of `history`.

    Those scores are of the averaged weights on the people held out of training, never on a split that is reported.
    Raises CheckpointError where "best" has no scores to go by.
    """
    if recipe.kept != BEST:
        return recipe.kept
    scores = history[-1]["scores"] if history else {}
    known = [branch.name for branch in recipe.branches if math.isfinite(scores.get(branch.name, math.nan))]
    if not known:
        raise CheckpointError(f"{recipe.name}: no held-out scores to choose the best branch by; name one (--branch)")
    return max(known, key=lambda name: float(scores[name]))
