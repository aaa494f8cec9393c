"""The network that a recipe describes, and the one that a checkpoint holds."""

from typing import Any

from model.okdhp import OKDHP
from training import detector_task, pose_network
from training.config import Recipe, recipe_from_dict
from training.joints import COCO, JOINT_SETS, JointSet


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


def without_box_heads(content: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint's content without the box heads that it may have, which see inputs of one size alone."""
    weights = {name: value for name, value in content["ema"].items() if ".box_head." not in name}
    recipe = content["recipe"] | {"region_share": 0.0}
    return content | {"ema": weights, "recipe": recipe}
