"""The network that a recipe describes, and the one that a checkpoint holds."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

import torch

from model.cross_stage import MERGE, longer
from model.okdhp import OKDHP
from training import detector_task, pose_network
from training.checkpoint import CheckpointError, load_checkpoint
from training.config import Recipe
from training.joints import COCO, JOINT_SETS, JointSet
from training.recipes import recipe_from_dict

log = logging.getLogger("okdhp.train")

REGION_SHARE = 0.25  # of the recipe of a network that got its box heads later; above 0 says that it has some


def build_network(recipe: Recipe, joints: JointSet = COCO) -> OKDHP:
    """The multi-branch network of a recipe, freshly initialised; a detector knows no joints."""
    if recipe.task == "pose":
        return pose_network.build_model(recipe, len(joints.names))
    return detector_task.build_model(recipe)


def joints_of(content: dict[str, Any]) -> JointSet:
    """The keypoints that a checkpoint's network was trained for: COCO's where it does not say."""
    return JOINT_SETS[content.get("joints", COCO.name)]


def restore(content: dict[str, Any]) -> tuple[Recipe, OKDHP]:
    """A checkpoint's recipe and the averaged network."""
    recipe = recipe_from_dict(content["recipe"])
    model = build_network(recipe, joints_of(content))
    model.load_state_dict(content["ema"])
    return recipe, model


def start_from(model: OKDHP, task: str, path: Path, part: str = "") -> None:
    """Copy every weight of the checkpoint that has a namesake of equal shape in `model`, a network for `task`.

    A cross-stage level may be longer than the checkpoint's: what comes after it there counts nothing at first, so that
    a deeper network begins as the shallower one (Net2Net: Chen et al., ICLR 2016). A checkpoint of the other task has
    an encoder to start from, and the log says that it is one. part: only weights whose names begin so.
    Raises CheckpointError where no weight fits.
    """
    content, own = load_checkpoint(path), model.state_dict()
    named = {name: value for name, value in content["ema"].items() if name in own and name.startswith(part)}
    named |= {name: longer(value, own[name]) for name, value in named.items() if name.endswith(MERGE)}
    shared = {name: value for name, value in named.items() if own[name].shape == value.shape}
    if not shared:
        raise CheckpointError(f"{path}: has no weight that fits this network")
    model.load_state_dict(shared, strict=False)
    other = content["recipe"]["task"]
    note = f", which is of another task: a {other} network's, this is a {task}'s" if other != task else ""
    log.info("started with %d of %d weights from %s%s", len(shared), len(own), path, note)


def without_box_heads(content: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint's content without the box heads that it may have, which see inputs of one size alone."""
    weights = {name: value for name, value in content["ema"].items() if ".box_head." not in name}
    recipe = content["recipe"] | {"region_share": 0.0}
    return content | {"ema": weights, "recipe": recipe}


def with_box_heads(content: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint's content, with box heads that know nothing yet if its network has none.

    Raises RecipeError for a network that cannot have any.
    """
    recipe = recipe_from_dict(content["recipe"])
    if recipe.region_share > 0:
        return content
    recipe = dataclasses.replace(recipe, region_share=REGION_SHARE)
    torch.manual_seed(recipe.seed)
    network = build_network(recipe, joints_of(content))
    heads = {name: value for name, value in network.state_dict().items() if ".box_head." in name}
    return content | {"ema": content["ema"] | heads, "recipe": dataclasses.asdict(recipe)}
