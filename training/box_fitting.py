"""`okdhp fit-boxes`: a pose network's box heads learn to mend another detector's boxes; its poses stay as they are."""

import logging
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from app.digest import sha256
from model.box_head import BoxHead
from model.okdhp import OKDHP
from model.student import Decoder, PoseBranch
from training.box_task import region_losses
from training.checkpoint import check_unneeded, load_checkpoint, save_checkpoint
from training.config import Recipe, RecipeError
from training.datasets import load_dataset
from training.evaluate import load_network
from training.losses import falling
from training.pictures import DataError
from training.pose_crops import PoseCrops
from training.proposals import regions_of
from training.restore import restore, with_box_heads
from training.stopping import Stop, Stopped
from training.train import seeded

log = logging.getLogger("okdhp.train")

LEARNING_RATE, NEW_HEADS_RATE, WEIGHT_DECAY, WARMUP_STEPS = 1e-3, 3e-3, 0.02, 100
SHOWN_EVERY = 50  # steps over which the losses beside the progress bar are averaged


def fit_boxes(
    checkpoint: Path, out: Path, data: Path, detector: Path, device: torch.device, steps: int, batch: int
) -> None:
    """Write `checkpoint` with box heads fitted to the exported `detector` to `out`; they are new if it has none.

    Only they learn: from what it proposes in the split train of the COCO-format folder `data`, but for the pictures
    that the recipe held out; what they read from is as in deployment. The rate falls along a cosine over `steps`, each
    of `batch` proposals. SIGTERM and SIGINT end it after the step under way, what was learnt by then is written, and
    Stopped raised. Raises RecipeError for a network that cannot have box heads, DataError, and CheckpointError, also
    for an `out` that is an input or a run's.
    """
    kept = out.with_name("regions.pt")
    if out == kept:
        raise DataError(f"{out}: what the detector proposes will be kept in a file of this name; choose another one")
    check_unneeded(out, checkpoint, detector)
    given = load_checkpoint(checkpoint)
    try:
        content = with_box_heads(given)
    except RecipeError as error:
        raise RecipeError(f"{checkpoint}: can have no box head: {error}") from None
    recipe, model = restore(content)
    rate = LEARNING_RATE if content is given else NEW_HEADS_RATE
    load_network(detector, "detector")  # before the pictures, which take their time
    dataset = load_dataset(data, "train", device)
    regions = regions_of(detector, dataset, recipe.holdout, kept)
    crops = PoseCrops(dataset, np.ones(len(dataset.people), bool), recipe.augment, regions)
    model.to(device)
    with Stop() as stop:
        done = learn(model, crops, recipe, steps, batch, rate, stop)
    about = {"detector": sha256(detector), "steps": done, "batch": batch, "before": sha256(checkpoint)}
    weights = {name: value.cpu() for name, value in model.state_dict().items()}
    save_checkpoint(out, content | {"ema": weights, "model": {}, "optimiser": {}, "boxes": about})
    if stop():
        raise Stopped(stop.number)


def learn(model: OKDHP, crops: PoseCrops, recipe: Recipe, steps: int, batch: int, rate: float, stop: Stop) -> int:
    """Train the box heads of `model` in place, and nothing else; returns after how many steps it was stopped.

    rate: the learning rate at its highest.
    """
    heads = box_heads(model)
    model.eval().requires_grad_(False)
    learnt = [parameter for _, head in heads for parameter in head.train().requires_grad_().parameters()]
    optimiser = torch.optim.AdamW(learnt, lr=rate, weight_decay=WEIGHT_DECAY)
    size_hw, device = (recipe.stages[-1].height, recipe.stages[-1].width), learnt[0].device
    shown = Tensor()
    with tqdm(total=steps, desc="boxes", unit="step", mininterval=0.5) as bar:
        for step in range(steps):
            generator = seeded(recipe.seed, 0, step)
            looked, target = crops.of_regions(batch, size_hw, generator)
            images = crops.images(looked, size_hw, generator).to(device, memory_format=torch.channels_last)
            targets = {f"region/{name}": getattr(target, name).to(device) for name in ("boxes", "near", "counts")}
            with torch.no_grad():
                features = model.trunk(images).features
            terms = torch.stack([term for one in heads for term in head_terms(*one, features, targets)])
            for group in optimiser.param_groups:
                group["lr"] = rate * min(1, (step + 1) / WARMUP_STEPS) * falling(step / steps)
            optimiser.zero_grad()
            terms.sum().backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            shown = terms.detach() if step == 0 else shown.lerp(terms.detach(), 1 / SHOWN_EVERY)
            bar.set_postfix_str(" ".join(f"{value:.4f}" for value in shown.tolist()), refresh=False)
            bar.update()
            if stop():
                log.warning("stopped after step %d of %d", step + 1, steps)
                return step + 1
    return steps


def box_heads(model: OKDHP) -> list[tuple[Decoder, BoxHead]]:
    """Of every branch that has a box head: the decoder whose coarsest features it reads, and the head."""
    return [
        (branch.decoder, branch.box_head)
        for branch in model.branches.values()
        if isinstance(branch, PoseBranch) and branch.box_head is not None
    ]


def head_terms(
    decoder: Decoder, head: BoxHead, features: tuple[Tensor, ...], targets: dict[str, Tensor]
) -> list[Tensor]:
    """The head's loss terms (training.box_task) on the trunk's features of regions."""
    with torch.no_grad():
        coarsest = decoder.pyramid(features)[0]
    return list(region_losses(head(coarsest), targets).values())
