"""Any folder of people the trainer understands."""

from pathlib import Path

import torch

from training.coco import find_split
from training.data import Dataset, load_coco
from training.mpii import is_mpii, load_mpii


def load_dataset(
    folder: Path,
    name: str,
    device: torch.device | None = None,
    limit: int | None = None,
    keep: str = "auto",
    held_out: float = 0.0,
) -> Dataset:
    """Read split `name` of a COCO-format folder, ours or the official layout, or of an MPII folder.

    `limit`, `keep`, `held_out` and errors as `training.data.load_coco` has them.
    """
    is_coco = find_split(folder, name).annotations.exists()
    load = load_mpii if not is_coco and is_mpii(folder) else load_coco
    return load(folder, name, device, limit, keep, held_out)
