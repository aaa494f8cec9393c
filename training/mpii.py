"""MPII Human Pose: the official release (.mat) and its widespread JSON conversion, as one thing in memory."""

import dataclasses
import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
import torch
from numpy.typing import NDArray

from training.data import Dataset, People, chosen_pictures
from training.joints import MPII
from training.pictures import DataError, open_pictures, say_left_out

log = logging.getLogger("okdhp.mpii")
# Matlab counts pixels from 1, and app.geometry puts the first one's centre at 0.5.
ORIGIN = 0.5
SCALE_PX = 200  # a person of scale 1 is this tall
LOWER = 15  # the official crop's centre is this many pixels per scale below the given one: feet, not sky
RELEASE = "mpii_human_pose_v1_u12_1.mat"
# What scipy and json raise for damaged files, and what the fields of a sound but different one do when they are read.
NOT_MPII = (OSError, ValueError, KeyError, AttributeError, TypeError, IndexError, NotImplementedError)
# What the conversions in use call the splits; the release itself has no validation split.
SPLIT_FILES = {
    "train": ("annot/train.json", "annotations/mpii_train.json"),
    "val": ("annot/valid.json", "annotations/mpii_val.json"),
    "trainval": ("annot/trainval.json", "annotations/mpii_trainval.json"),
}

Floats = NDArray[Any]


@dataclass(frozen=True)
class Mpii:
    """N annotated people; coordinates in the pixels of their pictures (app.geometry's convention).

    images (N,) file names; joints (N, 16, 2), NaN where not labelled; labelled (N, 16), hidden joints included; centres
    (N, 2) the rough middle of the person; scales (N,) height in 200 px; head_boxes (N, 4) xyxy, NaN where not known.
    """

    images: NDArray[np.str_]
    joints: Floats
    labelled: NDArray[np.bool_]
    centres: Floats
    scales: Floats
    head_boxes: Floats

    def __len__(self) -> int:
        return len(self.images)

    def subset(self, rows: NDArray[Any]) -> "Mpii":
        """The people at `rows`, a mask (N,) or indices."""
        return Mpii(**{f.name: getattr(self, f.name)[rows] for f in dataclasses.fields(self)})

    def boxes(self) -> Floats:
        """Square boxes (N, 4) xyxy that app.geometry's padded crop makes the crop of the official protocol."""
        centres = self.centres + self.scales[:, None] * np.array([0, LOWER])
        half = self.scales[:, None] * SCALE_PX / 2
        return np.concatenate([centres - half, centres + half], axis=1)


def is_mpii(folder: Path) -> bool:
    """Whether `folder` looks like MPII's: its release, or a JSON conversion where those are kept."""
    listed = [file for files in SPLIT_FILES.values() for file in files]
    return any((folder / file).exists() for file in listed) or any(folder.rglob(RELEASE))


def load_mpii(
    folder: Path,
    name: str,
    device: torch.device | None = None,
    limit: int | None = None,
    keep: str = "auto",
    held_out: float = 0.0,
) -> Dataset:
    """Read split `name` of an MPII folder, its pictures under `folder/images`; people have 16 keypoints.

    `limit`, `keep` and `held_out` as in `training.data.load_coco`. Raises DataError when there is nothing to use.
    """
    everyone = read_mpii(folder, name)
    names = sorted(set(everyone.images.tolist()))
    ids = np.array([_image_id(file) for file in names])
    names = [names[i] for i in chosen_pictures(ids, limit, held_out)]
    entries = [{"file_name": file} for file in names]
    kept, pictures = open_pictures(folder / "images", entries, device or torch.device("cpu"), keep)
    if not kept:
        raise DataError(f"{folder}: none of its {len(names)} MPII pictures could be read under {folder / 'images'}")
    slot = {entry["file_name"]: index for index, entry in enumerate(kept)}
    people = everyone.subset(np.array([image in slot for image in everyone.images]))
    ids = np.array([_image_id(file) for file in slot])
    picture = np.array([slot[image] for image in people.images])
    return Dataset(pictures, _people(people, picture, ids), ids, np.full(len(ids), "mpii"), MPII)


def read_mpii(folder: Path, name: str) -> Mpii:
    """The people of split `name` from a JSON conversion under `folder`, or for "train" from the release itself.

    Whose picture is in a conversion's split val is not in the release's train. With a JSON the head boxes come from
    gt_NAME.mat or mpii_gt_NAME.mat beside it or from the release, where there is one.
    """
    release = next(iter(sorted(folder.rglob(RELEASE))), None)
    path = find_conversion(folder, name)
    if path is None:
        if release is not None and name == "train":
            return outside_val(read_release(release), find_conversion(folder, "val"))
        wanted = " or ".join(str(folder / file) for file in split_files(name))
        seen = "a network trained on it has seen the people of the usual valid.json"
        raise DataError(f"expected {wanted}; the release alone ({RELEASE}) has the split train only, and {seen}")
    truth = f"gt_{path.stem.removeprefix('mpii_')}.mat"
    for beside in (path.with_name(truth), path.with_name(f"mpii_{truth}")):
        if beside.exists():
            return read_json(path, beside)
    people = read_json(path)
    if release is not None:
        return dataclasses.replace(people, head_boxes=match_head_boxes(people, read_release(release)))
    return people


def split_files(name: str) -> tuple[str, ...]:
    """What a conversion may call split `name`, under the folder."""
    return SPLIT_FILES.get(name, (f"annot/{name}.json",))


def find_conversion(folder: Path, name: str) -> Path | None:
    """The JSON of split `name`; None where there is none."""
    return next((folder / file for file in split_files(name) if (folder / file).exists()), None)


def outside_val(people: Mpii, val: Path | None) -> Mpii:
    """The people in pictures that are not in the JSON `val`, where there is one. Raises DataError for nobody."""
    if val is None:
        return people
    kept = ~np.isin(people.images, read_json(val).images)
    if not kept.any():
        raise DataError(f"{val}: has every picture of the release, and leaves nobody to learn from")
    log.info(
        "%d of %d people of the release are left out of train: their pictures are in %s", (~kept).sum(), len(kept), val
    )
    return people.subset(kept)


def read_release(path: Path, separated_only: bool = False) -> Mpii:
    """The annotated people in the training pictures of the official release.

    `separated_only` keeps those it calls sufficiently separated from others, whom its single-person protocol measures.
    People without joints, scale or position cannot be used, as elsewhere. Raises DataError for another file.
    """
    rows = []
    try:
        release = scipy.io.loadmat(path, struct_as_record=False, squeeze_me=True)["RELEASE"]
        pictures = zip(_list(release.annolist), _list(release.img_train), _list(release.single_person), strict=True)
        for picture, trained, separated in pictures:
            people = _list(getattr(picture, "annorect", None)) if trained else []
            alone = {int(number) for number in _list(separated)}  # counted from 1
            for number, person in enumerate(people, 1):
                row = _release_row(str(picture.image.name), person)
                if row is not None and (number in alone or not separated_only):
                    rows.append(row)
    except NOT_MPII as error:
        raise DataError(f"{path}: expected MPII's {RELEASE}: {type(error).__name__}: {error}") from error
    return _table(path, rows)


def _list(value: Any) -> list[Any]:
    """A Matlab field as a list: scipy gives one thing bare, several as an array, and nothing as an empty array."""
    return [] if value is None else list(np.atleast_1d(value))


def _number(holder: Any, field: str) -> float:
    values = _list(getattr(holder, field, None))
    return float(values[0]) if values else float("nan")


def _release_row(image: str, person: Any) -> dict[str, Any] | None:
    """One person of the release in its own coordinates, or None without joints, scale or position."""
    points = [p for points in _list(getattr(person, "annopoints", None)) for p in _list(getattr(points, "point", None))]
    places = _list(getattr(person, "objpos", None))
    scale = _number(person, "scale")
    if not points or not places or not np.isfinite(scale):
        return None
    joints = np.full((len(MPII.names), 2), np.nan)
    for point in points:
        joints[int(point.id)] = _number(point, "x"), _number(point, "y")
    centre = (_number(places[0], "x"), _number(places[0], "y"))
    head = [_number(person, field) for field in ("x1", "y1", "x2", "y2")]
    return {"image": image, "joints": joints, "centre": centre, "scale": scale, "head": head}


def read_json(path: Path, truth: Path | None = None) -> Mpii:
    """The people of a JSON conversion: a list of {image, joints, joints_vis, center, scale}.

    joints_vis says which joints are labelled, visible or hidden. truth: the gt_NAME.mat with everyone's head box,
    without which there are none. Raises DataError for another file.
    """
    rows = []
    try:
        for entry in json.loads(path.read_text(encoding="utf-8-sig")):
            joints = np.array(entry["joints"], dtype=np.float64).reshape(len(MPII.names), 2)
            joints[np.array(entry["joints_vis"]).reshape(len(MPII.names)) == 0] = np.nan
            centre = np.array(entry["center"], dtype=np.float64).reshape(2)
            scale = float(entry["scale"])
            rows.append(
                {"image": entry["image"], "joints": joints, "centre": centre, "scale": scale, "head": [np.nan] * 4}
            )
    except NOT_MPII as error:
        raise DataError(f"{path}: expected MPII as a list in JSON: {type(error).__name__}: {error}") from error
    if truth is not None:
        for row, head in zip(rows, read_head_boxes(truth, len(rows)), strict=True):
            row["head"] = head
    return _table(path, rows)


def read_head_boxes(path: Path, count: int) -> Floats:
    """Head boxes (count, 4) xyxy of gt_NAME.mat, in its pixels: headboxes_src is (2, 2, count): corner, axis."""
    try:
        corners = np.asarray(scipy.io.loadmat(path)["headboxes_src"], dtype=np.float64)
    except NOT_MPII as error:
        raise DataError(f"{path}: expected headboxes_src: {type(error).__name__}: {error}") from error
    if corners.shape != (2, 2, count):
        raise DataError(f"{path}: expected head boxes (2, 2, {count}), got {corners.shape}")
    boxes: Floats = corners.reshape(4, count).T
    return boxes


def match_head_boxes(people: Mpii, release: Mpii) -> Floats:
    """Head boxes (N, 4) of those of `release` in the same picture at the same place; NaN for people not in it."""
    row_of = {place: row for row, place in enumerate(_places(release))}
    rows = [row_of.get(place, -1) for place in _places(people)]
    boxes = np.concatenate([release.head_boxes, np.full((1, 4), np.nan)])  # the last one is nobody's
    return boxes[np.array(rows, dtype=np.int64)]


def _places(people: Mpii) -> list[tuple[str, float, float]]:
    centres = people.centres.round(1).tolist()  # the conversion may have rounded
    return [(image, x, y) for image, (x, y) in zip(people.images.tolist(), centres, strict=True)]


def _table(path: Path, rows: list[dict[str, Any]]) -> Mpii:
    if not rows:
        raise DataError(f"{path}: no annotated person in it")
    joints = np.stack([row["joints"] for row in rows]) - ORIGIN
    people = Mpii(
        images=np.array([row["image"] for row in rows]),
        joints=joints,
        labelled=np.asarray(np.isfinite(joints).all(2)),
        centres=np.array([row["centre"] for row in rows], dtype=np.float64) - ORIGIN,
        scales=np.array([row["scale"] for row in rows], dtype=np.float64),
        head_boxes=np.array([row["head"] for row in rows], dtype=np.float64) - ORIGIN,
    )
    usable = np.isfinite(people.centres).all(1) & np.isfinite(people.scales) & (people.scales > 0)
    without = np.flatnonzero(~usable)
    say_left_out([f"{path}: person {row} ({people.images[row]}) has no usable centre and scale" for row in without])
    return people.subset(usable)


def _people(people: Mpii, picture: NDArray[np.int64], ids: NDArray[np.int64]) -> People:
    """As the trainer has them. MPII knows no areas: the boxes' stand in, and OKS is not for MPII."""
    boxes = people.boxes().astype(np.float32)
    return People(
        picture=torch.from_numpy(picture),
        boxes=torch.from_numpy(boxes),
        keypoints=torch.from_numpy(np.nan_to_num(people.joints).astype(np.float32)),
        labelled=torch.from_numpy(people.labelled),
        area=torch.from_numpy((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])),
        crowd=torch.zeros(len(people), dtype=torch.bool),
        ids=torch.arange(len(people)),
        head_boxes=torch.from_numpy(people.head_boxes.astype(np.float32)),
        image_ids=torch.from_numpy(ids[picture]),
        sources=np.full(len(people), "mpii"),
    )


def _image_id(name: str) -> int:
    """The same number for the same picture, whatever split or format it comes from."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=6).digest())
