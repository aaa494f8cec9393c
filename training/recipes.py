"""Recipes as TOML files and checkpoints hold them: plain values, each checked against what it is to become."""

import dataclasses
import tomllib
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from model.student import OwnConfig
from training.config import Recipe, RecipeError, require

UNREAD = {  # by each task: a file that sets one of these expects what will not come
    "pose": ("box_weight", "augment.mosaic", "augment.close_up"),
    "detector": ("sigma", "hard_kl_weight", "absent_weight", "region_share", "unlabelled_weight")
    + ("augment.scale", "augment.rotation", "augment.shift", "augment.half_body", "augment.background"),
}


def load_recipe(path: Path) -> Recipe:
    """Read a TOML recipe.

    Raises RecipeError, naming the file, for unknown keys, wrong types, impossible values, and keys that the recipe's
    task does not read.
    """
    try:
        values = tomllib.loads(path.read_text())
        recipe: Recipe = _build(Recipe, values, "")
        _require_read(values, recipe.task)
        shared = any(branch.own == OwnConfig() for branch in recipe.branches)
        read = recipe.detach_target or recipe.distillation == "ensemble"
        require(read, f"detach_target is of an ensemble that teaches, and distillation is {recipe.distillation!r}")
        alone = shared or recipe.task == "pose"
        require(alone, "every branch has an encoder of its own: one at least must learn on the shared one")
    except (OSError, tomllib.TOMLDecodeError, RecipeError) as error:
        raise RecipeError(f"{path}: {error}") from error
    return recipe


def _require_read(values: dict[str, Any], task: str) -> None:
    given = {*values, *(f"augment.{name}" for name in values.get("augment", {}))}
    unread = sorted(given & set(UNREAD[task]))
    require(not unread, f"a {task} recipe does not read {', '.join(unread)}")


def recipe_from_dict(values: dict[str, Any]) -> Recipe:
    """The inverse of dataclasses.asdict, for recipes stored in checkpoints."""
    recipe: Recipe = _build(Recipe, values, "")
    return recipe


def _build(kind: Any, value: Any, where: str) -> Any:
    """Make a `kind` of plain TOML values; the error names `where`."""
    if dataclasses.is_dataclass(kind):
        require(isinstance(value, dict), f"{where or 'the recipe'} must be a table")
        hints = get_type_hints(kind)
        unknown = sorted(set(value) - set(hints))
        require(not unknown, f"unknown key {where}{unknown[0] if unknown else ''}; known are {', '.join(hints)}")
        missing = [
            f.name
            for f in dataclasses.fields(kind)
            if f.name not in value and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        ]
        require(not missing, f"missing key {where}{missing[0] if missing else ''}")
        return kind(**{key: _build(hints[key], item, f"{where}{key}.") for key, item in value.items()})  # type: ignore[operator]
    label = where.rstrip(".")
    if get_origin(kind) is tuple:
        require(isinstance(value, list | tuple), f"{label} must be a list, got {value!r}")
        return tuple(_build(get_args(kind)[0], item, where) for item in value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    expected = str if get_origin(kind) is Literal else kind
    require(type(value) is expected, f"{label} must be {expected.__name__}, got {value!r}")
    return value
