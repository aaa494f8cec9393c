"""Where a detector sees somebody: the regions that a pose network's box head learns from."""

import logging
from pathlib import Path

import numpy as np
import torch

from app.digest import sha256
from app.geometry import SMALLEST_BOX_PX
from app.models import DetectorNetwork, read_card
from training.box_task import JITTER, LISTED_JITTER, Regions
from training.checkpoint import keep, kept_for
from training.data import Dataset, held_pictures, identity
from training.evaluate import Network, complete_pictures, find_people, load_network
from training.pictures import DataError

log = logging.getLogger("okdhp.train")


def regions_of(detector: Path, dataset: Dataset, holdout: float, kept: Path) -> Regions:
    """What the exported `detector` proposes in `dataset`, and who is listed there, but for the pictures held out.

    It looks once, which takes minutes, and leaves what it found in the file `kept` for the next start of the run.
    Raises DataError for a file that is no detector, or that finds nobody, and CheckpointError as `kept_for`.
    """
    known = {"detector": sha256(detector), **identity(dataset), "holdout": holdout}
    if found := kept_for(kept, known):
        return Regions(*found["regions"])
    network = load_network(detector, "detector")
    min_score = float(read_card(detector).get("min_score", DetectorNetwork.DEFAULT_MIN_SCORE))
    held = held_pictures(dataset.image_ids, holdout)
    taught = [index for index in complete_pictures(dataset) if not held[index]]
    regions = with_listed(proposed(network, dataset, taught, min_score), dataset, taught)
    log.info("%d regions in %d pictures", len(regions), len(taught))
    keep(kept, known, regions=(regions.picture, regions.boxes, regions.jitter))
    return regions


def proposed(network: Network, dataset: Dataset, pictures: list[int], min_score: float) -> Regions:
    """What the detector finds in `pictures` with at least `min_score`. Raises DataError where that is nothing."""
    owners, boxes = [], []
    for index, (found, scores) in zip(pictures, find_people(network, dataset, pictures), strict=True):
        width, height = dataset.pictures.size_wh[index].tolist()
        inside = found.clip(0, [width, height, width, height])
        kept = (scores >= min_score) & ((inside[:, 2:] - inside[:, :2]) >= SMALLEST_BOX_PX).all(1)
        owners += [index] * int(kept.sum())
        boxes.append(inside[kept])
    if not owners:
        raise DataError(f"the detector finds nobody of score {min_score:g} in {len(pictures)} pictures")
    corners = torch.from_numpy(np.concatenate(boxes).astype(np.float32))
    return Regions(torch.tensor(owners), corners, torch.full((len(owners),), JITTER))


def with_listed(regions: Regions, dataset: Dataset, pictures: list[int]) -> Regions:
    """`regions` and the listed people's own boxes in `pictures`, whom the detector may have overlooked."""
    people = dataset.people
    mask = torch.isin(people.picture, torch.tensor(pictures)) & ~people.crowd
    own = Regions(people.picture[mask], people.boxes[mask], torch.full((int(mask.sum()),), LISTED_JITTER))
    parts = ((getattr(regions, name), getattr(own, name)) for name in ("picture", "boxes", "jitter"))
    return Regions(*(torch.cat(pair) for pair in parts))
