"""What a batch of poses is made of: crops of listed people, of places with nobody, and of what a detector proposed."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor

from training.answers import Answers
from training.augment import occlude, person_crops, photometric, transform_points, uniform
from training.box_task import Regions, Wanted, end_at_floor, mirrored_maps, random_looks, wanted
from training.config import Augment, Recipe, RecipeError
from training.data import PARTIAL_SOURCES, Dataset, People
from training.joints import JointSet
from training.losses import box_iou
from training.views import backgrounds, listed_people

SHOWS_IOU = 0.5  # a region that overlaps a person by less teaches no pose: whose it shows cannot be told
FAR_AWAY = -1e6
NOBODY = -1


class Crops(NamedTuple):
    """B crops to be made: picture (B,); maps (B, 2, 3) from picture to crop; mirrored (B,); floor (B,).

    Of whom they show: keypoints (B, K, 2) in picture pixels, labelled and absent (B, K). Below `floor`, in picture
    pixels, the picture ends. person (B,): who teaches a pose there, by row in the dataset, or NOBODY.
    """

    picture: Tensor
    maps: Tensor
    mirrored: Tensor
    floor: Tensor
    keypoints: Tensor
    labelled: Tensor
    absent: Tensor
    person: Tensor


class PoseCrops:
    """Random crops of `dataset`'s pictures; `people` are those of it to learn from, where `learnt` (N,) is true."""

    def __init__(self, dataset: Dataset, learnt: np.ndarray, augment: Augment, regions: Regions | None) -> None:
        self.people, self.everyone = dataset.people.subset(learnt), dataset.people
        self.row_of = torch.from_numpy(np.flatnonzero(learnt))  # in the dataset
        self.augment, self.joints = augment, dataset.joints
        self.regions, self.pictures, self.listed = regions, dataset.pictures, listed_people(dataset)
        self.asked, self.asked_of_everyone = asked_keypoints(self.people), asked_keypoints(self.everyone)
        self.complete = torch.from_numpy(~np.isin(self.people.sources, PARTIAL_SOURCES))

    def of_people(self, rows: Tensor, size_hw: tuple[int, int], generator: Generator) -> Crops:
        """Of the people `rows` (B,), some by chance of a place beside them, where nobody is."""
        people, config = self.people, self.augment
        boxes, keypoints, labelled = people.boxes[rows], people.keypoints[rows], people.labelled[rows]
        absent, person = self.asked[rows] & ~labelled, self.row_of[rows]
        if config.background > 0:
            empty = uniform(generator, len(rows), 0, 1) < config.background
            places = backgrounds(self.listed, self.pictures.size_wh, people.picture[rows], generator)
            empty &= places.isfinite().all(1) & self.complete[rows]
            boxes = torch.where(empty[:, None], places, boxes)
            labelled, absent = labelled & ~empty[:, None], absent | empty[:, None]
            person = person.masked_fill(empty, NOBODY)
        maps, mirrored = person_crops(boxes, keypoints, labelled, size_hw, config, generator, self.joints)
        floor = torch.full((len(rows),), torch.inf)
        return Crops(people.picture[rows], maps, mirrored, floor, keypoints, labelled, absent, person)

    def of_regions(self, count: int, size_hw: tuple[int, int], generator: Generator) -> tuple[Crops, Wanted]:
        """Of `count` regions, and what a box head should say of them; those that show somebody teach a pose, too."""
        assert self.regions is not None
        rows = torch.randint(len(self.regions), (count,), generator=generator)
        looks = random_looks(self.regions, rows, generator)
        maps = mirrored_maps(looks.boxes, size_hw, generator)
        target = wanted(self.listed, looks, maps, size_hw)
        shown = (box_iou(target.given, target.boxes) >= SHOWS_IOU) & target.near
        people, who = self.everyone, target.person
        labelled = people.labelled[who] & shown[:, None]
        absent = self.asked_of_everyone[who] & ~people.labelled[who] & shown[:, None]
        mirrored, person = maps[:, 0, 0] < 0, who.masked_fill(~shown, NOBODY)
        crops = Crops(looks.picture, maps, mirrored, looks.floor, people.keypoints[who], labelled, absent, person)
        return crops, target

    def images(self, crops: Crops, size_hw: tuple[int, int], generator: Generator) -> Tensor:
        """The crops (B, 3, H, W), float 0..255, covered and their colours changed at random."""
        images = self.pictures.sample(crops.picture, crops.maps, size_hw).float()
        if crops.floor.isfinite().any():
            images = end_at_floor(images, crops.floor, crops.maps)
        return occlude(photometric(images, self.augment, generator), self.augment, generator)


def keypoint_targets(crops: Crops, joints: JointSet) -> dict[str, Tensor]:
    """Keypoints (B, K, 2) in crop pixels, far outside where the picture ended before; labelled and absent (B, K)."""
    ended = crops.keypoints[..., 1] >= crops.floor[:, None]
    points = transform_points(crops.keypoints, crops.maps).masked_fill(ended[..., None], FAR_AWAY)
    return _flipped(crops, joints, {"keypoints": points, "labelled": crops.labelled, "absent": crops.absent})


def answer_targets(crops: Crops, answers: Answers, joints: JointSet) -> dict[str, Tensor]:
    """What the teacher sees of whom the crops show: places (B, K, P, 2) in crop pixels, and heights (B, K, P).

    Places are far outside where the picture ended before; of nobody there are none.
    """
    places, shown = answers.places[crops.person], crops.person != NOBODY
    ended = places[..., 1] >= crops.floor[:, None, None]
    points = transform_points(places.flatten(1, 2), crops.maps).view_as(places).masked_fill(ended[..., None], FAR_AWAY)
    heights = answers.heights[crops.person] * shown[:, None, None]
    return _flipped(crops, joints, {"places": points, "heights": heights})


def _flipped(crops: Crops, joints: JointSet, named: dict[str, Tensor]) -> dict[str, Tensor]:
    """Values (B, K, ...) of keypoints, left for right where a crop is mirrored."""
    flip, which = torch.tensor(joints.flip_index), crops.mirrored
    return {
        name: torch.where(which.view(-1, *[1] * (values.ndim - 1)), values[:, flip], values)
        for name, values in named.items()
    }


def asked_keypoints(people: People) -> Tensor:
    """Which keypoints (N, K) the annotators of each person's source were asked for: those that anybody there has."""
    asked = torch.zeros_like(people.labelled)
    for source in set(people.sources):
        of_it = torch.from_numpy(people.sources == source)
        asked[of_it] = people.labelled[of_it].any(0)
    return asked


def check_detector(recipe: Recipe, given: bool) -> None:
    """Raises RecipeError where `recipe` wants a detector and none is given, or would not listen to the one given."""
    if (recipe.region_share > 0) != given:
        needs = "needs a detector (--detector)" if recipe.region_share > 0 else "reads no detector's boxes"
        raise RecipeError(f"{recipe.name}: with region_share = {recipe.region_share:g} it {needs}")
