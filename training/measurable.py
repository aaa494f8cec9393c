"""Whom a network can be measured on: asked before a run that could not end without an answer."""

import numpy as np
from numpy.typing import NDArray

from training.config import BEST, Recipe
from training.data import PARTIAL_SOURCES, Dataset, held_pictures
from training.detector_task import DetectorTask
from training.joints import MPII, JointSet
from training.metrics import MIN_BOX_HEIGHT_PX
from training.pictures import DataError
from training.pose_task import score_name, scored


def measurable(dataset: Dataset, task: str) -> NDArray[np.bool_]:
    """Which people (N,) the score of a network for `task` is about."""
    people = dataset.people
    if task == "pose":
        return scored(people, dataset.joints)
    partial = np.isin(dataset.sources, PARTIAL_SOURCES)
    tall = (people.boxes[:, 3] - people.boxes[:, 1] > MIN_BOX_HEIGHT_PX) & ~people.crowd
    which: NDArray[np.bool_] = (~partial | partial.all())[people.picture.numpy()] & tall.numpy()
    return which


def named_score(task: str, joints: JointSet) -> str:
    """What a network for `task` is measured by."""
    return score_name(joints) if task == "pose" else DetectorTask.score_name


def check_measurable(dataset: Dataset, task: str, place: str = "") -> None:
    """Raises DataError where the score of a network for `task` is about nobody in `dataset`, which is `place`."""
    if not measurable(dataset, task).any():
        hint = ": put gt_valid.mat beside valid.json, or MPII's release into the folder" * _lacks_heads(dataset, task)
        nobody = f"nobody {place}".strip()
        raise DataError(f"{nobody} can be measured by {named_score(task, dataset.joints)}{hint}")


def _lacks_heads(dataset: Dataset, task: str) -> bool:
    """Whether people who cannot be measured could be if their head boxes were known."""
    return task == "pose" and dataset.joints == MPII


def check_best(recipe: Recipe, dataset: Dataset) -> None:
    """Raises DataError where `recipe` keeps the best branch, and nobody who is held out can tell which that is."""
    if recipe.kept != BEST:
        return
    held = held_pictures(dataset.image_ids, recipe.holdout)
    if not held.any():
        raise DataError(f"of {len(held)} pictures none is held out to choose the best branch by: raise holdout")
    people = held[dataset.people.picture.numpy()]
    if not measurable(dataset, recipe.task)[people].any():
        nobody = f"of {people.sum()} people held out none can be measured to choose the best branch by"
        also = ", or put MPII's release into the folder for its head boxes" * _lacks_heads(dataset, recipe.task)
        raise DataError(f"{nobody}: name a branch in kept{also}")
