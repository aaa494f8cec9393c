"""Checkpoints that are either whole or absent."""

import fcntl
import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from app.digest import sha256

log = logging.getLogger("okdhp.train")


class CheckpointError(ValueError):
    """A checkpoint that cannot be used or written; the message names the file and the reason."""


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write `content` beside `path`, flush, then rename: a killed writer or a full disk leaves the old file.

    Raises OSError, with `path` in it, where it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.stem}.{secrets.token_hex(4)}.partial")  # no other writer's
    try:
        with open(temporary, "xb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        if (reason := _os_error(error)) is None:
            raise
        raise OSError(reason.errno, reason.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def _os_error(error: BaseException | None) -> OSError | None:
    """What the system said: after a failed write torch closes its archive, and reports that failing instead."""
    while error is not None and not isinstance(error, OSError):
        error = error.__context__
    return error


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Inside, no other run writes its checkpoints to `folder`; the lock ends with the process, however that dies.

    Of torchrun's processes the first holds it. Where the filesystem has no locks, the log says so.
    Raises CheckpointError where another run holds it.
    """
    if not _leads():
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            wanted = "wait for it, or choose another output folder"
            raise CheckpointError(f"{folder}: another run is writing here; {wanted}") from None
        except OSError as error:
            log.warning("%s: cannot be locked (%s): start no other run with it", folder, error.strerror)
        else:
            for left in folder.glob("last.*.partial"):  # by a run that was killed while it wrote
                left.unlink(missing_ok=True)
        yield


def check_unneeded(out: Path, *inputs: Path) -> None:
    """Raises CheckpointError for an `out` that is one of `inputs`, what a run goes on from, or no checkpoint at all.

    A slim checkpoint may be written over: it can be made again.
    """
    if not out.exists():
        return
    try:
        goes_on = bool(load_checkpoint(out)["model"])
    except CheckpointError:
        raise CheckpointError(f"{out}: is there already, and no checkpoint; choose another name") from None
    if any(path.exists() and out.samefile(path) for path in inputs):
        raise CheckpointError(f"{out}: is read, and would be written over; choose another name")
    if goes_on:
        raise CheckpointError(f"{out}: a run goes on from it, and could not any more; choose another name")


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
    if _leads():
        save_checkpoint(path, {"known": known, **values})


def _leads() -> bool:
    """Whether this is the first of torchrun's processes, or alone."""
    return os.environ.get("RANK", "0") == "0"


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
