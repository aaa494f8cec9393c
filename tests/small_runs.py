"""Training runs of a few seconds, on drawn people: two recipes, and a function that trains one."""

import dataclasses
from pathlib import Path

import torch

from training.checkpoint import load_checkpoint
from training.config import Augment, Branch, Encoder, Recipe, Stage
from training.datasets import load_dataset
from training.train import train

CPU = torch.device("cpu")
TINY = Encoder((8, 12, 16, 24, 32), (0, 0, 0, 0, 0))
POSE = Recipe(
    name="tiny pose",
    task="pose",
    stages=(Stage(2, 64, 64, batch=8), Stage(1, 96, 64, batch=8)),
    branches=(Branch("a", (16, 16, 16)), Branch("b", (24, 16, 16))),
    encoder=TINY,
    holdout=0.2,
    augment=Augment(rotation_deg=10),
)
DETECTOR = dataclasses.replace(
    POSE, name="tiny detector", task="detector", branches=(Branch("a", (16, 16)), Branch("b", (16, 16)))
)


def run(recipe: Recipe, folder: Path, out: Path, amp: bool = False, **options: object) -> dict[str, object]:
    """The checkpoint that `recipe` leaves in `out`; options are `train`'s."""
    return load_checkpoint(train(recipe, load_dataset(folder, "train"), out, device=CPU, amp=amp, **options))
