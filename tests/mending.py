"""What a detector proposes in drawn pictures, and how well a student's box head mends it."""

from pathlib import Path

import numpy as np
import torch
from commandline import TINY_RECIPE

from app.geometry import crop_matrix, invert, transform, warp
from training.data import load_coco
from training.evaluate import find_people, load_network
from training.losses import box_iou

# About where the drawn people are in a letterboxed picture, and once where nobody is.
PLACES = [(10.0, 15.0, 40.0, 66.0), (50.0, 20.0, 80.0, 76.0), (22.0, 8.0, 44.0, 50.0), (60.0, 60.0, 80.0, 90.0)]
RECIPE = TINY_RECIPE.replace("TASK", "pose").replace("KEPT", "a").replace("holdout", "region_share = 0.5\nholdout")
SIDE = 96


def overlaps(pose: Path, detector: Path, data: Path) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of all that the detector proposes in val: its IoU with whom it overlaps most, the mended box's, and the fit."""
    people, network = load_coco(data, "val"), load_network(pose)
    given, answered, fits = [], [], []
    for index, (boxes, _) in enumerate(find_people(load_network(detector), people, list(range(len(people.pictures))))):
        maps = [crop_matrix(box, network.size_wh) for box in boxes]
        picture = people.pictures.picture(index)
        _, _, own, fit = network.run([warp(picture, matrix, network.size_wh) for matrix in maps])
        own = np.stack([transform(b.reshape(2, 2), invert(m)).ravel() for b, m in zip(own, maps, strict=True)])
        listed = people.people.boxes[people.people.picture == index]
        for pair, found in ((given, boxes), (answered, own)):
            pair.append(box_iou(torch.tensor(found)[:, None].float(), listed[None]).max(1).values)
        fits.append(torch.tensor(fit))
    return torch.cat(given), torch.cat(answered), torch.cat(fits)
