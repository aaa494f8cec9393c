"""Whether what is measured on was learnt from, too."""

import filecmp
import logging
import posixpath
from pathlib import Path

from training.annotations import read_content, table
from training.coco import Split, find_split
from training.pictures import DataError

log = logging.getLogger("okdhp.data")


def warn_of_shared(folder: Path, name: str = "val") -> None:
    """Says in the log how many pictures of split `name` of a COCO-format folder are in its train, too."""
    train, measured = find_split(folder, "train"), find_split(folder, name)
    if measured == train:
        return
    try:
        learnt, listed = _files(train), _files(measured)
    except DataError:  # none there, or told by who reads the split for its people
        return
    shared = sum(key in learnt and _same(learnt[key], file) for key, file in listed.items())
    if shared:
        flattered = "scores of what has learnt from them are flattered"
        log.warning("%d of %d pictures of %s are in train, too: %s", shared, len(listed), name, flattered)


def _files(split: Split) -> dict[str, Path]:
    entries = table(read_content(split.annotations), "images", split.annotations)
    names = [posixpath.normpath(str(entry.get("file_name"))) for entry in entries]
    return {name: split.images / name for name in names}


def _same(one: Path, other: Path) -> bool:
    """Whether two files of one name are one picture: in COCO's layout each split has a folder, and may have a copy."""
    return one == other or (one.is_file() and other.is_file() and filecmp.cmp(one, other, shallow=False))
