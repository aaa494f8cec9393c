"""A network trained before, frozen, that a recipe with distillation = "teacher" learns from."""

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from app.digest import sha256
from model.layers import fuse
from training.checkpoint import CheckpointError, load_checkpoint
from training.config import Recipe, RecipeError
from training.joints import COCO, JointSet
from training.kept import teaching_branch
from training.restore import joints_of, restore, without_box_heads

log = logging.getLogger("okdhp.train")


@dataclass(frozen=True)
class Teacher:
    """The best branch of a checkpoint, or the kept one where none was scored; `identity` is its file's digest.

    size_hw: of the pictures that it was trained for, at the end.
    """

    network: nn.Sequential
    identity: str
    size_hw: tuple[int, int]

    @torch.no_grad()
    def heatmaps(self, images: Tensor) -> Tensor:
        """Final heatmaps (B, K, H/s, W/s) of pictures (B, 3, H, W), without gradients."""
        heatmaps: Tensor = self.network(images).final
        return heatmaps


def load_teacher(path: Path, student: Recipe, device: torch.device, joints: JointSet = COCO) -> Teacher:
    """The teacher in checkpoint `path` for `student`, who learns `joints`.

    Raises CheckpointError for one of another task or other keypoints, or one that cannot see the student's inputs and
    is to be asked about them.
    """
    content = without_box_heads(load_checkpoint(path))
    known = joints_of(content)
    if student.task == "pose" and known != joints:
        raise CheckpointError(f"{path}: knows the keypoints of {known.name}, the data have {joints.name}'s")
    recipe, model = restore(content)
    if recipe.task != student.task:
        raise CheckpointError(f"{path}: a {recipe.task} network cannot teach a {student.task} one")
    try:
        if not student.teacher_once:
            dataclasses.replace(recipe, stages=student.stages)
    except RecipeError as error:
        raise CheckpointError(f"{path}: this teacher cannot see what the student sees: {error}") from error
    branch = teaching_branch(recipe, content["history"])
    log.info("branch %s of %s teaches", branch, path)
    network = fuse(model.deployed(branch).eval())  # it is run, not trained
    network = network.to(device, memory_format=torch.channels_last).requires_grad_(False)  # type: ignore[call-overload]
    last = recipe.stages[-1]
    return Teacher(cast(nn.Sequential, network), sha256(path), (last.height, last.width))


def check_teacher(recipe: Recipe, path: Path | None) -> None:
    """Raises RecipeError where `recipe` wants a teacher and has none, or has one that it would not listen to."""
    if recipe.distillation == "teacher" and path is None:
        raise RecipeError(f'{recipe.name}: distillation = "teacher" needs a teacher\'s checkpoint (--teacher)')
    if recipe.distillation != "teacher" and path is not None:
        raise RecipeError(f'{recipe.name}: a teacher is given, but distillation is "{recipe.distillation}"')
