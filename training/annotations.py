"""COCO keypoints files as people write them: what of one can be used, and what is wrong with the rest."""

import json
import logging
import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import NamedTuple

from training.joints import COCO
from training.person import NUM_KEYPOINTS
from training.pictures import DataError, Entry

log = logging.getLogger("okdhp.data")


class Annotations(NamedTuple):
    """Pictures by whole-numbered ids, none twice, and the people annotated in them, ids likewise."""

    images: list[Entry]
    people: list[Entry]


def read_annotations(path: Path) -> Annotations:
    """The pictures and people of a COCO keypoints file.

    Annotations of other categories, of pictures that are not listed, and repeated ones are counted in the log and left
    out. Raises DataError for a file of another form, for pictures without an id of their own, for keypoints that are
    not COCO's 17 in their order, and for boxes and keypoints of two categories.
    """
    content = read_content(path)
    images = list(_images(table(content, "images", path), path))
    people = table(content, "annotations", path)
    kinds = person_categories(table(content, "categories", path), people, path)
    chosen = [a for a in people if kinds is None or "category_id" not in a or whole(a["category_id"]) in kinds]
    _left_out(len(people) - len(chosen), "annotations of other categories than people")
    return Annotations(images, _of_pictures(chosen, {entry["id"] for entry in images}))


def read_content(path: Path) -> Entry:
    """The object in a COCO keypoints file. Raises DataError for anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:  # no JSON, or no UTF-8
        raise DataError(f"{path}: expected a COCO keypoints file: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected a COCO keypoints file: an object with images and annotations")
    return content


def table(content: Entry, name: str, path: Path) -> list[Entry]:
    """The objects in list `name` of the file `path`, [] where it has none. Raises DataError for other things."""
    rows = content.get(name) or []
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path}: {name} must be a list of objects")
    return rows


def _images(entries: list[Entry], path: Path) -> Iterator[Entry]:
    seen = set()
    for entry in entries:
        number = whole(entry.get("id"))
        if number is None:
            raise DataError(f"{path}: an image's id must be a whole number, got {entry.get('id')!r}")
        if number in seen:
            raise DataError(f"{path}: two images have the id {number}")
        seen.add(number)
        sides = {side: whole(entry.get(side)) for side in ("width", "height")}
        rest = {key: value for key, value in entry.items() if key not in sides}
        yield rest | {"id": number} | (sides if None not in sides.values() else {})


def person_categories(categories: list[Entry], people: list[Entry], path: Path) -> set[int | None] | None:
    """The ids of those that are people: called person, else those with keypoints; None where there is no choice.

    people: all annotations. Raises DataError where none of several is, where keypoints are named and are not COCO's,
    and where boxes and keypoints are of two categories.
    """
    called = [c for c in categories if str(c.get("name", "")).lower() == "person"]
    _check_skeletons(called, categories, people, path)
    chosen = called or [c for c in categories if c.get("keypoints")] or categories[: len(categories) == 1]
    if not chosen:
        if categories:
            called_so = ", ".join(str(c.get("name")) for c in categories)
            raise DataError(f"{path}: none of its categories is called person: {called_so}")
        return None
    for category in chosen:
        listed = category.get("keypoints") or COCO.names
        if not isinstance(listed, list | tuple):
            raise DataError(
                f"{path}: category {category.get('name')}: keypoints must be a list of names, got {listed!r}"
            )
        _check_names(list(listed), f"{path}: category {category.get('name')}")
    return {whole(category.get("id")) for category in chosen} if len(categories) > 1 else None


def _plain(name: object) -> str:
    """A keypoint's name, however its words are joined."""
    return re.sub(r"[\s_-]+", "_", str(name).strip().lower())


def _named_as_coco(listed: object) -> bool:
    return isinstance(listed, list) and tuple(map(_plain, listed)) == COCO.names


def _check_names(listed: list[str], where: str) -> None:
    """Raises DataError for keypoints that are not COCO's 17 in their order."""
    names = [_plain(name) for name in listed]
    if len(names) != NUM_KEYPOINTS:
        raise DataError(f"{where} has {len(names)} keypoints: expected COCO's 17")
    for number, (name, expected) in enumerate(zip(names, COCO.names, strict=True), 1):
        if name != expected:
            wanted = f"COCO's order, {expected} here" if name in COCO.names else f"COCO's names, {expected} here"
            raise DataError(f"{where}: keypoint {number} is called {name}: expected {wanted}")


def _check_skeletons(called: list[Entry], categories: list[Entry], people: list[Entry], path: Path) -> None:
    """Raises DataError where those called person are boxes alone, and people of another category have keypoints.

    Whose box is whose skeleton is not said: together they name people twice, and either alone may leave somebody out.
    """
    ids = {whole(category.get("id")) for category in called}
    used = {whole(annotation.get("category_id")) for annotation in people if annotation.get("keypoints")}
    if not called or ids & used or any(category.get("keypoints") for category in called):
        return
    for category in categories:
        if whole(category.get("id")) in used and _named_as_coco(category.get("keypoints")):
            both = f"boxes are of category person and keypoints of category {category.get('name')}"
            raise DataError(f"{path}: {both}: expected both in each annotation, of one category called person")


def _of_pictures(annotations: list[Entry], image_ids: set[int]) -> list[Entry]:
    """Those of listed pictures, each once, with ids as whole numbers: who has none gets one that is free."""
    kept, seen, strays, repeated = [], set(), 0, 0
    taken = {whole(annotation.get("id")) for annotation in annotations}
    free = (number for number in count(1) if number not in taken)
    for annotation in annotations:
        image_id, given = whole(annotation.get("image_id")), annotation.get("id")
        number = whole(given)
        name = str(given) if number is None else number
        if image_id not in image_ids:
            strays += 1
        elif given is not None and name in seen:
            repeated += 1
        else:
            seen.add(name)
            kept.append(annotation | {"id": next(free) if number is None else number, "image_id": image_id})
    _left_out(strays, "annotations of pictures that are not listed")
    _left_out(repeated, "annotations with the id of another")
    return kept


def _left_out(number: int, what: str) -> None:
    if number:
        log.warning("left out: %d %s", number, what)


def whole(value: object) -> int | None:
    """`value` as a whole number if it is one, or its digits as text; else None."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = int(value)
    except (ValueError, OverflowError):
        return None
    return number if abs(number) < 2**63 and (isinstance(value, str) or number == value) else None
