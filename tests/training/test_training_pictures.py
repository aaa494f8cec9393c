"""The pictures that a batch shows, whole: what is said of them is still where it is, and they are changed as asked."""

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from small_runs import DETECTOR, POSE

from training.config import Augment, Recipe, Stage
from training.data import load_coco
from training.detector_task import DetectorTask
from training.joints import COCO
from training.pose_task import PoseTask
from training.train import seeded

STILL = Augment(flip=0, scale=0, rotation=0, shift=0, half_body=0, occlusion=0, colour=0, low_light=0, noise=0, blur=0)
STILL = dataclasses.replace(STILL, mosaic=0.0)
STAGE = Stage(1, 256, 192, batch=8)


def batch(recipe: Recipe, augment: Augment, folder: Path, stage: Stage = STAGE) -> tuple[torch.Tensor, dict]:
    """The first training pictures by `augment`."""
    dataset, kind = load_coco(folder, "train"), PoseTask if recipe.task == "pose" else DetectorTask
    recipe = dataclasses.replace(recipe, augment=augment, stages=(stage,))
    task = kind(recipe, dataset, np.zeros(len(dataset.pictures), bool))
    return task.batch(torch.arange(stage.batch), stage, seeded(0, 0, 1))


@pytest.mark.parametrize(
    "changes",
    [{}, {"flip": 1.0}, {"rotation": 1.0, "rotation_deg": 40.0}, {"scale": 0.3, "shift": 0.1}]
    + [{"flip": 1.0, "rotation": 1.0, "scale": 0.3, "shift": 0.1}],
    ids=lambda changes: " ".join(changes) or "still",
)
def test_each_keypoint_stays_on_what_it_is_of(changes: dict[str, float], drawn_folder: Path) -> None:
    """Each of a drawn person's is a dot of its own colour; in a mirror a left wrist looks like a right one."""
    images, targets = batch(POSE, dataclasses.replace(STILL, **changes), drawn_folder)
    colours = cv2.applyColorMap(np.uint8([range(0, 255, 15)]), cv2.COLORMAP_HSV)[0]
    names = list(COCO.flip_index) if "flip" in changes else list(range(17))
    compared = 0
    for image, points in zip(images, targets["keypoints"], strict=True):
        for number in range(5, 17):  # those of the face lie on each other
            column, row = points[number].floor().long().tolist()
            if 4 <= column < 188 and 4 <= row < 252:
                around = image[:, row - 2 : row + 3, column - 2 : column + 3].mean((1, 2)).numpy()
                distances = np.linalg.norm(colours.astype(float) - around, axis=1)
                assert distances.argmin() == names[number] and distances.min() < 60
                compared += 1
    assert compared > 8 * 8


@pytest.mark.parametrize("recipe", [POSE, DETECTOR], ids=lambda recipe: recipe.task)
def test_training_pictures_are_darkened_and_covered_as_asked(recipe: Recipe, drawn_folder: Path) -> None:
    plain, _ = batch(recipe, STILL, drawn_folder)
    dark, _ = batch(recipe, dataclasses.replace(STILL, low_light=1.0), drawn_folder)
    covered, _ = batch(recipe, dataclasses.replace(STILL, occlusion=1.0), drawn_folder)
    assert (dark.mean((1, 2, 3)) < 0.55 * plain.mean((1, 2, 3))).all()
    changed = ((covered - plain).abs() > 2).any(1).double().mean((1, 2))
    assert ((changed > 0) & (changed < 0.2)).all()


@pytest.mark.parametrize("mosaic", [0.0, 1.0])
def test_a_detector_s_boxes_stay_around_their_people(mosaic: float, drawn_folder: Path) -> None:
    """A drawn person is a rectangle of one grey with dots, brighter than what is around it."""
    size = Stage(1, 256, 256, batch=8)
    images, targets = batch(
        DETECTOR, dataclasses.replace(STILL, mosaic=mosaic, flip=0.5, rotation_deg=0), drawn_folder, size
    )
    body = ((images - torch.tensor([70.0, 70, 90]).view(3, 1, 1)).abs() < 12).all(1)
    rows, columns = torch.arange(256).view(-1, 1) + 0.5, torch.arange(256) + 0.5
    seen = 0
    for picture, boxes, valid in zip(body, targets["boxes"], targets["valid"] | targets["ignored"], strict=True):
        anywhere = torch.zeros_like(picture)
        for x1, y1, x2, y2 in boxes[valid].tolist():
            inner = (columns > x1 + 2) & (columns < x2 - 2) & (rows > y1 + 2) & (rows < y2 - 2)
            if inner.sum() > 100:
                assert picture[inner].double().mean() > 0.5
                seen += 1
            anywhere |= (columns > x1 - 2) & (columns < x2 + 2) & (rows > y1 - 2) & (rows < y2 + 2)
        assert (picture & ~anywhere).sum() < 0.02 * picture.sum()
    assert seen >= 8
