"""`okdhp train-boxes`: a finished pose student gets a box head, trained on what a detector proposes."""

import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor
from tqdm import tqdm

from model.box_head import BoxHead
from model.export import sha256
from model.layers import fuse
from model.outputs import Region
from model.student import Encoder, PoseBranch
from training.augment import occlude, photometric
from training.box_task import (
    Looks,
    Regions,
    Wanted,
    crop_maps,
    end_at_floor,
    losses,
    plain_looks,
    random_looks,
    wanted,
)
from training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from training.config import Augment
from training.data import Dataset
from training.datasets import load_dataset
from training.exporting import slim
from training.kept import kept_branch
from training.losses import box_iou
from training.proposals import regions_of
from training.restore import restore, without_box_head
from training.views import listed_people

log = logging.getLogger("okdhp.train")
BATCH, LEARNING_RATE, WEIGHT_DECAY, WARMUP = 96, 2e-3, 0.05, 0.05
MEANS_OVER = 100  # steps that the losses shown are means of


class BoxTraining:
    """A frozen trunk and branch, whose box head alone learns, on regions of `dataset`'s pictures."""

    def __init__(
        self, trunk: Encoder, branch: PoseBranch, size_hw: tuple[int, int], dataset: Dataset, augment: Augment
    ) -> None:
        assert branch.box_head is not None
        self.head, self.size_hw, self.augment = branch.box_head, size_hw, augment
        for frozen in (trunk, branch.decoder):
            fuse(frozen.eval()).requires_grad_(False)
        for part in (trunk, branch):  # not before: fused layers are made on the CPU
            part.to(dataset.pictures.device)
        self.trunk, self.decoder = trunk, branch.decoder
        self.pictures, self.listed = dataset.pictures, listed_people(dataset)

    def look(self, looks: Looks, generator: Generator | None = None) -> tuple[Region, Wanted]:
        """What the head says, and what it should; with a generator in other light, partly covered, mirrored."""
        maps = crop_maps(looks.boxes, self.size_hw, generator)
        crops = end_at_floor(self.pictures.sample(looks.picture, maps, self.size_hw).float(), looks.floor, maps)
        if generator is not None:
            crops = occlude(photometric(crops, self.augment, generator), self.augment, generator)
        with torch.no_grad():
            features = self.decoder.pyramid(self.trunk(crops).features)[0]
        return self.head(features), wanted(self.listed, looks, maps, self.size_hw)

    def losses(self, region: Region, target: Wanted) -> dict[str, Tensor]:
        """Named terms of what the head says."""
        device = self.pictures.device
        return losses(region, target.boxes.to(device), target.near.to(device), target.counts.to(device))

    def fit(self, regions: Regions, steps: int, seed: int) -> None:
        """Train the head for `steps`."""
        generator = torch.Generator().manual_seed(seed)
        optimiser = torch.optim.AdamW(self.head.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, LEARNING_RATE, total_steps=steps, pct_start=max(WARMUP, 2 / steps)
        )
        recent: list[dict[str, float]] = []
        bar = tqdm(range(steps), "boxes", unit="step", mininterval=0.5)
        self.head.train()
        for _ in bar:
            rows = torch.randint(len(regions), (BATCH,), generator=generator)
            region, target = self.look(random_looks(regions, rows, generator), generator)
            terms = self.losses(region, target)
            optimiser.zero_grad()
            torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            recent = [*recent[1 - MEANS_OVER :], {name: float(value.detach()) for name, value in terms.items()}]
            bar.set_postfix({name: f"{np.mean([step[name] for step in recent]):.3f}" for name in terms})
        self.head.eval()

    @torch.no_grad()
    def measure(self, regions: Regions) -> dict[str, float]:
        """On regions as they are: mean IoU with the people they show, before and after; surprise at the fits."""
        given, mended, fits = [], [], []
        for rows in torch.split(torch.arange(len(regions)), BATCH):
            region, target = self.look(plain_looks(regions, rows))
            near = target.near
            given.append(box_iou(target.given, target.boxes)[near])
            mended.append(box_iou(region.boxes.cpu(), target.boxes)[near])
            fits.append(self.losses(region, target)["fit"].cpu()[None])
        measured = {"iou_given": torch.cat(given), "iou_mended": torch.cat(mended), "fit_loss": torch.cat(fits)}
        return {name: round(float(values.mean()), 4) for name, values in measured.items() if len(values)}


def train_boxes(
    checkpoint: Path, detector: Path, data: Path, out: Path, steps: int, device: torch.device, limit: int | None = None
) -> dict[str, Any]:
    """Write `checkpoint`'s kept branch with a box head to `out`, a slim checkpoint; returns what it notes of the head.

    detector: an exported file; the head learns from what that proposes in `data`'s train, but for what the recipe
    holds out. limit: only so many pictures, for a trial. Raises CheckpointError for a network without the layers that
    a box head reads, or an `out` that is the checkpoint, and DataError.
    """
    if out.resolve() == checkpoint.resolve():
        raise CheckpointError(f"{out}: is the checkpoint to start from; the result needs a name of its own")
    content = without_box_head(load_checkpoint(checkpoint))
    recipe, model = restore(content)
    kept, size_hw = kept_branch(recipe, content["history"]), (recipe.stages[-1].height, recipe.stages[-1].width)
    trunk, branch = model.trunk, model.branches[kept]
    if not (isinstance(trunk, Encoder) and isinstance(branch, PoseBranch)):
        raise CheckpointError(
            f"{checkpoint}: a box head needs a pose student; the network is {recipe.network}, its task {recipe.task}"
        )
    dataset = load_dataset(data, "train", device, limit)
    taught, aside = regions_of(detector, dataset, recipe.holdout)
    torch.manual_seed(recipe.seed)
    head = branch.add_box_head(size_hw)
    training = BoxTraining(trunk, branch, size_hw, dataset, recipe.augment)
    began = time.monotonic()
    training.fit(taught, steps, recipe.seed)
    about = {"branch": kept, "size_hw": size_hw, "steps": steps, "detector": sha256(detector)}
    about |= {"hours": round((time.monotonic() - began) / 3600, 2)}
    about |= {"held_out": training.measure(aside)} if aside is not None else {}
    save_checkpoint(out, with_box_head(slim(content, kept), head, about))
    return about


def with_box_head(content: dict[str, Any], head: BoxHead, about: dict[str, Any]) -> dict[str, Any]:
    """A slim checkpoint's content and a trained head in it, in half precision as the rest."""
    values = {f"branches.{about['branch']}.box_head.{name}": value.cpu() for name, value in head.state_dict().items()}
    halved = {name: value.half() if value.is_floating_point() else value for name, value in values.items()}
    return content | {"ema": content["ema"] | halved, "box_head": about}
