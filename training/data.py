"""COCO-format folders: pictures, and people as tensors."""

import dataclasses
import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training.annotations import read_annotations
from training.coco import find_split, missing
from training.joints import COCO, JointSet
from training.person import MARGIN, NUM_KEYPOINTS, box_fault, completed, keypoints_fault, without_keypoints
from training.pictures import DataError, Pictures, open_pictures, say_left_out

log = logging.getLogger("okdhp.data")
DOUBTED = 0.1  # share of boxes that stick out: of more it is not the odd careless one
PARTIAL_SOURCES = ("lspet",)  # in whose pictures only one of possibly several people is annotated


@dataclass(frozen=True)
class People:
    """N annotated people.

    picture (N,) index into Pictures; boxes (N, 4) xyxy; keypoints (N, K, 2) in picture pixels; labelled (N, K) bool;
    area (N,) px^2; crowd (N,) bool: boxes of several people at once, who are neither to be found nor background; ids
    (N,) annotation ids; head_boxes (N, 4) xyxy, NaN where not known; image_ids (N,) and sources (N,) of their pictures.
    """

    picture: Tensor
    boxes: Tensor
    keypoints: Tensor
    labelled: Tensor
    area: Tensor
    crowd: Tensor
    ids: Tensor
    head_boxes: Tensor
    image_ids: Tensor
    sources: np.ndarray

    def __len__(self) -> int:
        return len(self.picture)

    def subset(self, mask: np.ndarray) -> "People":
        """The people where `mask` (N,) is true."""
        return People(**{f.name: getattr(self, f.name)[mask] for f in dataclasses.fields(self)})


@dataclass(frozen=True)
class Dataset:
    """Pictures and the people in them; `image_ids` and `sources` (len(pictures),) are the pictures'.

    joints: what the people's keypoints are.
    """

    pictures: Pictures
    people: People
    image_ids: np.ndarray
    sources: np.ndarray
    joints: JointSet = COCO


def held_pictures(image_ids: np.ndarray, share: float) -> np.ndarray:
    """Which pictures (N,) bool are kept aside: by their id alone, so that every run and machine agrees."""
    mixed = (image_ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(
        40
    )  # Knuth's multiplicative hash
    return mixed < share * 2**24


def digest(people: People) -> str:
    """Tells one set of annotations from another: a hash of ids, boxes and labelled keypoints."""
    points = people.keypoints * people.labelled[..., None]
    parts = (people.ids, people.boxes, points)
    return hashlib.sha256(b"".join(part.contiguous().numpy().tobytes() for part in parts)).hexdigest()[:16]


def identity(dataset: Dataset) -> dict[str, str]:
    """Tells what was made of one dataset from what was made of another: its people and its pictures."""
    return {"people": digest(dataset.people), "pictures": hashlib.sha256(dataset.image_ids.tobytes()).hexdigest()}


def chosen_pictures(image_ids: np.ndarray, limit: int | None, held_out: float) -> list[int]:
    """Which pictures to load, in order: all, or with `held_out` those kept aside; of them `limit` at random."""
    kept = np.flatnonzero(held_pictures(image_ids, held_out)) if held_out > 0 else np.arange(len(image_ids))
    if limit is not None:
        kept = np.sort(np.random.default_rng(0).permutation(kept)[:limit])
    chosen: list[int] = kept.tolist()
    return chosen


def load_coco(
    folder: Path,
    name: str,
    device: torch.device | None = None,
    limit: int | None = None,
    keep: str = "auto",
    held_out: float = 0.0,
) -> Dataset:
    """Read `name` of a COCO-format folder (`training.coco.find_split` says where).

    A broken picture or annotation is named in the log and left out; a person whose keypoints alone are broken stays as
    one of a box alone. `limit` takes the first so many pictures of a shuffled list (for tests and trials). keep: where
    the pictures are, as `open_pictures` has it. held_out: above 0, only the pictures that training with this holdout
    keeps aside. Raises DataError when the folder has nothing to use.
    """
    split = find_split(folder, name)
    if not split.annotations.exists():
        raise DataError(missing(folder, name))
    path, folder, source = split
    listed = read_annotations(path)
    ids = np.array([entry["id"] for entry in listed.images], dtype=np.int64)
    entries = [listed.images[i] for i in chosen_pictures(ids, limit, held_out)]
    if not entries and len(ids):
        raise DataError(f"{path}: none of its {len(ids)} pictures is held out at {held_out:g}")
    kept, pictures = open_pictures(folder, entries, device or torch.device("cpu"), keep)
    if not kept:
        raise DataError(f"{path}: none of its {len(entries)} pictures could be read under {folder}")
    slot = {entry["id"]: index for index, entry in enumerate(kept)}
    sources = np.array([str(entry.get("source", source)) for entry in kept])
    people = _people([a for a in listed.people if a["image_id"] in slot], slot, sources, pictures.size_wh)
    return Dataset(pictures, people, np.array([entry["id"] for entry in kept]), sources)


def _people(annotations: list[dict[str, Any]], slot: dict[int, int], sources: np.ndarray, sizes: Tensor) -> People:
    rows, faults = [], []
    for annotation in annotations:
        picture, person = slot[annotation["image_id"]], completed(annotation)
        width, height = sizes[picture].tolist()
        if fault := box_fault(person, (width, height)):
            faults.append(f"annotation {person['id']}: {fault}")
            continue
        if fault := keypoints_fault(person, (width, height)):  # left out whole, who is there would be background
            faults.append(f"keypoints of annotation {person['id']}, whose box is kept: {fault}")
            person = without_keypoints(person)
        rows.append((picture, person))
    say_left_out(faults)
    pictures = np.array([picture for picture, _ in rows], dtype=np.int64)
    table = np.array([a["keypoints"] for _, a in rows], dtype=np.float32).reshape(-1, NUM_KEYPOINTS, 3)
    boxes = np.array([a["bbox"] for _, a in rows], dtype=np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    _doubt(boxes, sizes.numpy()[pictures])
    return People(
        picture=torch.from_numpy(pictures),
        boxes=torch.from_numpy(boxes),
        keypoints=torch.from_numpy(table[..., :2].copy()),
        labelled=torch.from_numpy(table[..., 2] > 0),
        area=torch.tensor([float(a["area"]) for _, a in rows]),
        crowd=torch.tensor([bool(a.get("iscrowd")) for _, a in rows], dtype=torch.bool),
        ids=torch.tensor([a["id"] for _, a in rows], dtype=torch.int64),
        head_boxes=torch.full((len(rows), 4), torch.nan),
        image_ids=torch.tensor([a["image_id"] for _, a in rows], dtype=torch.int64),
        sources=sources[pictures] if len(rows) else np.array([], dtype=str),
    )


def _doubt(boxes: np.ndarray, sizes_wh: np.ndarray) -> None:
    """Says in the log where many of `boxes` (N, 4) xyxy stick out of their pictures, of `sizes_wh` (N, 2).

    Corners x1, y1, x2, y2 that were written for x, y, width, height do.
    """
    room = MARGIN * sizes_wh
    out = ((boxes[:, :2] < -room) | (boxes[:, 2:] > sizes_wh + room)).any(1)
    if out.sum() > DOUBTED * len(boxes):
        what = "stick out of their pictures by more than a tenth: bbox is x, y, width, height, not two corners"
        log.warning("%d of %d boxes %s", out.sum(), len(boxes), what)
