"""COCO's folder layout and result format."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[Any]
LISTED = 5  # of the JSON files in a folder that lacks the one wanted


class Split(NamedTuple):
    """Where a split's annotations and pictures are, and what its pictures are called where they do not say."""

    annotations: Path
    images: Path
    source: str


def find_split(folder: Path, name: str) -> Split:
    """`name` (such as "train" or "val") of a COCO-format folder, in our layout or the official one.

    Ours: NAME.json beside images/. Official: annotations/person_keypoints_NAME2017.json beside NAME2017/ (or
    images/NAME2017/); of several years the latest. Where there is neither, ours is what a reader misses.
    """
    ours = Split(folder / f"{name}.json", folder / "images", name)
    called = re.compile(rf"person_keypoints_{re.escape(name)}\d*\.json")  # a year alone: trainval2017 is not train's
    official = sorted(path for path in (folder / "annotations").glob("*.json") if called.fullmatch(path.name))
    if ours.annotations.exists() or not official:
        return ours
    split = official[-1].stem.removeprefix("person_keypoints_")
    nested = folder / "images" / split
    return Split(official[-1], nested if nested.is_dir() else folder / split, "coco")


def missing(folder: Path, name: str) -> str:
    """What to say where `folder` has no annotations of split `name`: where they are looked for, and what lies there."""
    wanted = f"{name}.json, annotations/person_keypoints_{name}2017.json (COCO) or annot/{name}.json (MPII)"
    found = sorted(str(path.relative_to(folder)) for depth in ("*.json", "*/*.json") for path in folder.glob(depth))
    listed = ", ".join(found[:LISTED]) + f" and {len(found) - LISTED} more" * (len(found) > LISTED)
    return f"{folder}: has no annotations of split {name}: expected {wanted}; its JSON files: {listed or 'none'}"


def result_entry(image_id: int, keypoints: Floats, scores: Floats, score: float) -> dict[str, Any]:
    """One person of a COCO result file: keypoints (17, 2) in picture pixels, their scores (17,), the person's score."""
    flat = np.concatenate([keypoints, scores[:, None]], axis=1).astype(float)
    return {"image_id": image_id, "category_id": 1, "keypoints": flat.ravel().tolist(), "score": score}


def given_box_results(image_ids: list[int], keypoints: Floats, scores: Floats) -> list[dict[str, Any]]:
    """COCO result entries of keypoints (N, 17, 2) and scores (N, 17) predicted in N given boxes on `image_ids`.

    A given box has no score of its own: the person's is the mean of the keypoints'.
    """
    rows = zip(image_ids, keypoints, scores, strict=True)
    return [result_entry(image_id, p, c, float(c.mean())) for image_id, p, c in rows]
