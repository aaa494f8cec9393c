"""Where a detector sees somebody: the regions that a pose network's box head learns from."""

import logging
from pathlib import Path

import numpy as np
import torch

from app.models import DetectorNetwork, read_card
from training.box_task import JITTER, LISTED_JITTER, Regions
from training.data import Dataset, held_pictures
from training.evaluate import Network, complete_pictures, find_people, load_network
from training.pictures import DataError

log = logging.getLogger("okdhp.train")
SMALLEST_PX = 2.0


def regions_of(detector: Path, dataset: Dataset, holdout: float) -> tuple[Regions, Regions | None]:
    """Regions to learn from, and of the pictures that training holds out, if there are any; DataError without any."""
    network = load_network(detector)
    min_score = float(read_card(detector).get("min_score", DetectorNetwork.DEFAULT_MIN_SCORE))
    complete, held = complete_pictures(dataset), held_pictures(dataset.image_ids, holdout)
    taught, aside = ([index for index in complete if held[index] == which] for which in (False, True))
    regions = with_listed(proposed(network, dataset, taught, min_score), dataset, taught)
    log.info("%d regions of %d pictures; %d pictures are kept aside", len(regions), len(taught), len(aside))
    try:
        return regions, proposed(network, dataset, aside, min_score)
    except DataError:  # nobody to measure on
        return regions, None


def proposed(network: Network, dataset: Dataset, pictures: list[int], min_score: float) -> Regions:
    """What the detector finds in `pictures` with at least `min_score`. Raises DataError where that is nothing."""
    owners, boxes = [], []
    for index, (found, scores) in zip(pictures, find_people(network, dataset, pictures), strict=True):
        width, height = dataset.pictures.size_wh[index].tolist()
        inside = found.clip(0, [width, height, width, height])
        kept = (scores >= min_score) & ((inside[:, 2:] - inside[:, :2]) >= SMALLEST_PX).all(1)
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
