"""The training loop, for poses and people alike; reads from top to bottom."""

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterator, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Generator, Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from model.okdhp import OKDHP, Outputs
from training.answers import Answers
from training.box_task import Regions
from training.checkpoint import alone_in, lineage
from training.config import Recipe, Stage, require
from training.data import Dataset, held_pictures
from training.detector_task import DetectorTask
from training.distributed import Group, join_group, leave_group
from training.divergence import check_finite, divergence_named
from training.ema import EMA
from training.losses import falling, ramp_up
from training.measurable import check_best
from training.pictures import DataError
from training.pose_crops import check_detector
from training.pose_task import MIN_TRAINED_HEIGHT_PX, MIN_TRAINED_POINTS, PoseTask, regions_in
from training.progress import Progress, facts_of
from training.reporting import conclude, say_start
from training.restore import start_from
from training.stopping import Stop, Stopped
from training.teacher import Teacher, check_teacher, load_teacher

log = logging.getLogger("okdhp.train")
Batch = tuple[Tensor, dict[str, Tensor]]


class Task(Protocol):
    """What differs between poses and people."""

    score_name: str

    @property
    def held(self) -> Sized: ...
    def __len__(self) -> int: ...
    def build(self) -> OKDHP: ...
    def batch(self, rows: Tensor, stage: Stage, generator: Generator) -> Batch: ...
    def losses(
        self, outputs: Outputs, targets: dict[str, Tensor], stage: Stage, kd_weight: float
    ) -> dict[str, Tensor]: ...
    def evaluate(self, model: OKDHP, stage: Stage) -> dict[str, float]: ...
    def draw(self, model: OKDHP, stage: Stage) -> np.ndarray | None: ...


@dataclass(frozen=True)
class Start:
    """What a run begins with besides its recipe.

    regions: where a detector sees somebody in the dataset's pictures, for a recipe with region_share.
    init: a checkpoint whose equally named and shaped weights start the network; part: only those whose names begin so.
    teacher: the checkpoint of a heavy network that a recipe with distillation = "teacher" learns from; answers: what it
    sees, for one with teacher_once.
    """

    init: Path | None = None
    part: str = ""
    teacher: Path | None = None
    regions: Regions | None = None
    answers: Answers | None = None


def train(
    recipe: Recipe,
    dataset: Dataset,
    out: Path,
    *,
    device: torch.device,
    amp: bool,
    start: Start = Start(),
    max_hours: float = math.inf,
    compiled: bool = False,
    about: dict[str, str] | None = None,
) -> Path:
    """Train `recipe` on `dataset`, write `out/last.pt` now and then and return its path; resumes from it if there.

    It is written when the network is measured: every `recipe.evaluate_every` epochs, and after the last one.
    max_hours: stop cleanly after the epoch in which that time passes. compiled: by torch.compile. about: facts for the
    model card ("data", "hardware", "detector"), kept in the checkpoint.
    SIGTERM and SIGINT write the checkpoint after the step under way and raise Stopped; a resumed run is the
    uninterrupted one, because every batch's randomness comes from (seed, epoch, step) alone. Under torchrun each
    process takes its share of every batch; norms and losses are taken over the whole of it, so that the number of
    processes changes nothing. Raises NonFiniteLoss, DataError, CheckpointError, RecipeError.
    """
    path, before = out / "last.pt", lineage(start.init) if start.init is not None else []
    with alone_in(out):
        if path.exists():  # what is resumed has weights of its own
            start = dataclasses.replace(start, init=None)
        run = prepare(recipe, dataset, device, amp, start, compiled)
        state = Progress(run, path, facts_of(dataset, about), before)
        state.resume()
        board = SummaryWriter(str(out)) if run.group.leads else None
        with Stop() as stop:
            if board is not None and start.init is not None:
                say_start(run)
            run_epochs(run, state, board, stop, max_hours)
            stop.number = run.group.largest(stop.number)  # nobody leaves while the first process still writes
            leave_group()
        if board is not None:
            board.close()
    if stop():
        raise Stopped(stop.number)
    return path


def run_epochs(run: "Run", state: Progress, board: SummaryWriter | None, stop: Stop, max_hours: float) -> None:
    """The epochs from `state` on, until the last one, a signal, or the first one that ends after `max_hours`."""
    recipe, began = run.recipe, time.monotonic()
    for epoch in range(state.epoch, recipe.epochs):
        stage = recipe.stage_of(epoch)
        if epoch > 0 and state.step == 0 and stage is not recipe.stage_of(epoch - 1):
            run.ema.restart(run.model)
        with divergence_named((run.model, run.ema.model), stage, epoch, recipe.learning_rate):
            means = run_epoch(run, state, epoch, stop)
            if means is None:
                what = "stopped after step %d of epoch %d; %s goes on from there"
                log.warning(what, state.step, epoch + 1, state.path)
                return
            late = run.group.any((time.monotonic() - began) / 3600 > max_hours)
            if board is not None:
                conclude(run, state, board, epoch, means, last=late or epoch + 1 == recipe.epochs)
        if late:
            log.warning("stopped after %.2f hours, as asked", max_hours)
            return
    if stop():
        log.warning("stopped after the last epoch; %s is whole", state.path)


@dataclass
class Run:
    """What a step works on; `forward` calls `model`, distributed or compiled as may be."""

    recipe: Recipe
    task: Task
    model: OKDHP
    forward: Callable[[Tensor], Outputs]
    ema: EMA
    optimiser: torch.optim.Optimizer
    group: Group
    device: torch.device
    amp: bool
    teacher: Teacher | Answers | None = None


def prepare(
    recipe: Recipe,
    dataset: Dataset,
    device: torch.device,
    amp: bool,
    start: Start = Start(),
    compiled: bool = False,
) -> Run:
    """What `train` trains, at its beginning; the arguments are `train`'s."""
    check_teacher(recipe, start.teacher)
    require(recipe.teacher_once == (start.answers is not None), f"{recipe.name}: answers come with teacher_once")
    check_detector(recipe, start.regions is not None)
    torch.manual_seed(recipe.seed)
    torch.backends.cudnn.benchmark = True  # inputs keep their size for a whole stage
    group = join_group(device)
    task = task_of(recipe, dataset, start, group)
    model = group.prepare(task.build().to(device))
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from torch's stubs
    if start.init is not None:
        start_from(model, recipe.task, start.init, start.part)
    optimiser = torch.optim.AdamW(parameter_groups(model, recipe.weight_decay), lr=recipe.learning_rate, fused=True)
    taught_by: Teacher | Answers | None = start.answers
    if start.teacher is not None and taught_by is None:
        taught_by = load_teacher(start.teacher, recipe, device, dataset.joints)
    forward: Callable[[Tensor], Outputs] = group.wrap(model)
    if compiled:
        forward = torch.compile(forward)
    return Run(recipe, task, model, forward, EMA(model, recipe.ema_decay), optimiser, group, device, amp, taught_by)


def task_of(recipe: Recipe, dataset: Dataset, start: Start = Start(), group: Group | None = None) -> Task:
    """What `recipe` learns from `dataset`. Raises DataError and RecipeError where that is nothing, or cannot be."""
    check_best(recipe, dataset)
    held, group = held_pictures(dataset.image_ids, recipe.holdout), group or Group()
    task: Task
    if recipe.task == "pose":
        task = PoseTask(recipe, dataset, held, start.regions, start.answers, group)
    else:
        task = DetectorTask(recipe, dataset, held)
    check_enough(recipe, task, dataset)
    check_regions(recipe, group)
    return task


def check_enough(recipe: Recipe, task: Task, dataset: Dataset) -> None:
    """Raises DataError where the examples do not fill a batch, and says whether a smaller one would do."""
    batch = max(stage.batch for stage in recipe.stages)
    if len(task) >= batch:
        return
    if len(task) > 0:
        raise DataError(f"{len(task)} training examples do not fill one batch of {batch}: lower the stage's batch")
    if recipe.task == "detector":
        raise DataError(f"no picture to learn from: all {len(dataset.pictures)} are held out (holdout)")
    enough = f"{MIN_TRAINED_POINTS} labelled keypoints, {MIN_TRAINED_HEIGHT_PX} px of height"
    listed = f"of {len(dataset.people)} annotated people none has {enough} and a picture that is not held out"
    raise DataError(f"nobody to learn poses from: {listed}")


def check_regions(recipe: Recipe, group: Group) -> None:
    """Raises RecipeError where a process would have a batch without regions, and box heads without a loss."""
    few = min(regions_in(recipe, stage) for stage in recipe.stages)
    enough = recipe.region_share == 0 or few >= group.size
    require(enough, f"{recipe.name}: {few} regions a batch for {group.size} processes: raise region_share or the batch")


def run_epoch(run: Run, state: Progress, epoch: int, stop: Callable[[], bool]) -> dict[str, float] | None:
    """One pass over the examples, from `state.step` on; returns each loss term's mean, or None when it was stopped."""
    recipe, stage, first = run.recipe, run.recipe.stage_of(epoch), state.step
    steps = len(run.task) // stage.batch
    sums = {name: torch.tensor(value, device=run.device) for name, value in state.sums.items()}
    unchecked: list[dict[str, Tensor]] = []  # looked at every few steps: asking a GPU for a number makes it wait
    run.model.train()
    title = f"epoch {epoch + 1}/{recipe.epochs} {stage.height}x{stage.width}"
    with tqdm(total=steps, initial=first, desc=title, unit="step", disable=not run.group.leads, mininterval=0.5) as bar:
        for step, (images, targets) in enumerate(batches(run, stage, epoch, first), start=first):
            fraction = state.done_before(epoch) + (step / steps) * state.share_of(epoch)
            rate = learning_rate(recipe, fraction, epoch + step / steps)
            kd_weight = recipe.kd_weight * ramp_up(fraction / recipe.kd_ramp)
            terms = train_step(run, images, targets, stage, rate, kd_weight)
            for name, term in terms.items():
                sums[name] = sums.get(name, torch.zeros((), device=run.device)) + term
            unchecked.append(terms)
            if step % 20 == 0 or step == steps - 1:
                check_finite(unchecked, epoch, step)
                unchecked.clear()
                bar.set_postfix_str(" ".join(f"{name} {value.item() / (step + 1):.4f}" for name, value in sums.items()))
            bar.update()
            if run.group.any(stop()):
                check_finite(unchecked, epoch, step)
                state.interrupt(epoch, step + 1, {name: value.item() for name, value in sums.items()})
                return None
    state.step, state.sums = 0, {}
    return {name: value.item() / steps for name, value in sums.items()}


def train_step(
    run: Run, images: Tensor, targets: dict[str, Tensor], stage: Stage, rate: float, kd_weight: float
) -> dict[str, Tensor]:
    """One step on one batch at learning rate `rate`; returns the loss terms, detached."""
    for group in run.optimiser.param_groups:
        group["lr"] = rate
    images = images.to(run.device, memory_format=torch.channels_last, non_blocking=True)
    with torch.autocast(run.device.type, torch.bfloat16, enabled=run.amp):
        outputs = run.forward(images)
        if isinstance(run.teacher, Teacher):
            targets["teacher"] = run.teacher.heatmaps(images)
    terms = run.task.losses(outputs, targets, stage, kd_weight)
    run.optimiser.zero_grad(set_to_none=True)
    torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
    run.optimiser.step()
    run.ema.update(run.model)
    return {name: term.detach() for name, term in terms.items()}


def batches(run: Run, stage: Stage, epoch: int, first: int = 0) -> Iterator[Batch]:
    """The epoch's batches from step `first` on, this process's share of each.

    A batch is a function of (seed, epoch, step, rank) alone.
    """
    seed, rank = run.recipe.seed, run.group.rank
    order = torch.randperm(len(run.task), generator=seeded(seed, epoch, 0))
    whole = [rows for rows in torch.split(order, stage.batch) if len(rows) == stage.batch]
    for step, rows in enumerate(whole[first:], start=first):
        yield run.task.batch(run.group.share(rows), stage, seeded(seed, epoch, step + 1 + rank * len(whole)))


def seeded(seed: int, epoch: int, step: int) -> Generator:
    """A generator that depends on its three numbers alone."""
    entropy = np.random.SeedSequence([seed, epoch, step]).generate_state(1, np.uint64)[0]
    return Generator().manual_seed(int(entropy >> np.uint64(1)))


def learning_rate(recipe: Recipe, fraction: float, epochs_done: float) -> float:
    """Linear warm-up, constant, then a cosine to zero over the run's last part; fraction 0..1 of all steps."""
    warmup = min(1.0, (epochs_done + 1e-3) / recipe.warmup_epochs) if recipe.warmup_epochs > 0 else 1.0
    cooled = max(0.0, 1 - (1 - fraction) / recipe.cooldown)
    return recipe.learning_rate * warmup * falling(cooled)


def parameter_groups(model: OKDHP, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay on kernels only: scales, biases and norms keep their size."""
    decayed = [p for p in model.parameters() if p.ndim >= 2 and p.shape[1:].numel() > 1]
    kept = {id(p) for p in decayed}
    rest = [p for p in model.parameters() if id(p) not in kept]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]
