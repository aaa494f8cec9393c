"""Checkpoints that are either whole or absent."""

import os
from pathlib import Path
from typing import Any

import torch

from model.digest import sha256


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file and the reason."""


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write `content` beside `path`, flush, then rename: a killed writer or a full disk leaves the old file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".partial")
    try:
        with open(temporary, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU. Raises CheckpointError for anything that is not one."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{path}: not a readable checkpoint: {error.strerror or error}") from error
    except Exception as error:  # torch.load raises a dozen unrelated types, with advice for its own users
        exported = "; an exported network's checkpoint lies beside it" if path.suffix == ".onnx" else ""
        raise CheckpointError(f"{path}: not a readable checkpoint (a .pt file){exported}") from error
    if not isinstance(content, dict) or "recipe" not in content or "model" not in content:
        raise CheckpointError(f"{path}: not a checkpoint of this project")
    return content


def kept_for(path: Path, known: dict[str, Any]) -> dict[str, Any] | None:
    """What `keep` left in `path` under exactly the facts `known`; None where there is nothing, or under others.

    Raises CheckpointError for a file that `keep` did not write: it is somebody's, and would be written over.
    """
    if not path.exists():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # as in load_checkpoint
        content = None
    if not isinstance(content, dict) or "known" not in content:
        raise CheckpointError(f"{path}: is in the way of what a run keeps under this name; move it elsewhere")
    return content if content["known"] == known else None


def keep(path: Path, known: dict[str, Any], **values: Any) -> None:
    """Write `values` under the facts `known` that they follow from; of torchrun's processes the first does."""
    if os.environ.get("RANK", "0") == "0":
        save_checkpoint(path, {"known": known, **values})


def lineage(path: Path) -> list[dict[str, Any]]:
    """The runs that led to the checkpoint `path`, oldest first: what it costs to start from it."""
    content = load_checkpoint(path)
    last = {
        "recipe": content["recipe"]["name"],
        "epochs": content["epoch"],
        "hours": round(content["hours"], 2),
        "hardware": content.get("hardware", ""),
        "data": content.get("data", ""),
        "sha256": sha256(path),
        **{name: content[name] for name in ("teacher", "averaged") if content.get(name)},
    }
    return [*content.get("before", []), last]
