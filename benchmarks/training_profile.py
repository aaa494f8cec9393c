"""What bounds training: where a step's time goes by operator, and how near its convolutions come to what is possible.

    python -m benchmarks.training_profile [--data DIR] [--device auto] [--steps 4] [--student-batch 48]
        [--hourglass-batch 4]

Two networks: the student of training/configs/student-unbalanced.toml at 192x160 and HG-4 at 256x256. The limit is a
large matrix product of the same number type, timed before and after; a network whose convolutions take most of the time
near that limit is bound by compute, one whose norms, activations and sums take it is bound by memory.
"""

import collections
import dataclasses
import tempfile
import time
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.command import one_line_errors
from benchmarks.training import ROOT, made_up, read_arguments, wait
from training.commands import pick_device, wants_amp
from training.config import Recipe, Stage
from training.data import Dataset
from training.datasets import load_dataset
from training.recipes import load_recipe
from training.train import Run, batches, prepare, train_step

KINDS = (  # the first whose word an operator's name contains
    ("convolutions", ("conv",)),
    ("batch norms", ("batch_norm",)),
    ("activations", ("threshold", "clamp_min", "relu")),
    ("optimiser, averaging", ("adam", "lerp")),
    ("matrix products", ("mm", "matmul")),
    ("upsampling, pooling", ("upsample", "pool", "pixel")),
)
REST = "sums, products, softmaxes, copies"


def kind_of(operator: str) -> str:
    """Which of KINDS an operator belongs to."""
    return next((kind for kind, words in KINDS if any(word in operator.lower() for word in words)), REST)


def limit_gflops(device: torch.device, dtype: torch.dtype, size: int = 2048) -> float:
    """Floating-point operations in 1e9 a second of a square matrix product, the best of a few."""
    a, best = torch.randn(size, size, device=device, dtype=dtype), 0.0
    for _ in range(6):
        wait(device)
        began = time.perf_counter()
        a @ a
        wait(device)
        best = max(best, 2 * size**3 / 1e9 / (time.perf_counter() - began))
    return best


def step_gflops(run: Run, stage: Stage) -> float:
    """Floating-point operations in 1e9 of the convolutions of one step, forward and backward."""
    images, targets = next(batches(run, stage, 0))
    with FlopCounterMode(display=False) as counter:
        train_step(run, images, targets, stage, 0.0, run.recipe.kd_weight)
    counted = counter.get_flop_counts()["Global"].items()
    return sum(count for operator, count in counted if "conv" in str(operator)) / 1e9


def profiled(run: Run, stage: Stage, steps: int) -> tuple[dict[str, float], float]:
    """Seconds of `steps` whole steps by kind of operator, and on the wall."""
    cuda = run.device.type == "cuda"
    source = batches(run, stage, 1)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities) as found:
        wait(run.device)
        began = time.perf_counter()
        for _ in range(steps):
            train_step(run, *next(source), stage, run.recipe.learning_rate, run.recipe.kd_weight)
        wait(run.device)
        wall = time.perf_counter() - began
    seconds: dict[str, float] = collections.defaultdict(float)
    for event in found.key_averages():
        seconds[kind_of(event.key)] += (event.self_device_time_total if cuda else event.self_cpu_time_total) / 1e6
    return seconds, wall


def report(name: str, recipe: Recipe, stage: Stage, dataset: Dataset, device: torch.device, steps: int) -> None:
    """Print one network's profile."""
    amp = wants_amp("auto", device)
    run = prepare(dataclasses.replace(recipe, stages=(stage,)), dataset, device, amp)
    run.model.train()
    dtype = torch.bfloat16 if amp else torch.float32
    before, gflops = limit_gflops(device, dtype), step_gflops(run, stage)
    seconds, wall = profiled(run, stage, steps)
    limit = max(before, limit_gflops(device, dtype))  # twice: other work may have slowed one of them
    total = sum(seconds.values())
    print(f"\n{name}, batch {stage.batch}, {'bfloat16' if amp else 'fp32'}: {1000 * wall / steps:.0f} ms a step")
    for kind, value in sorted(seconds.items(), key=lambda item: -item[1]):
        print(f"  {kind:<36}{100 * value / total:>4.0f}%")
    reached = gflops * steps / seconds["convolutions"]
    print(f"  convolutions reach {reached:.0f} of {limit:.0f} GFLOP/s ({100 * reached / limit:.0f}%)", flush=True)


@one_line_errors()
def main() -> None:
    arguments = read_arguments(__doc__, steps=4, student_batch=48, hourglass_batch=4)
    device = pick_device(arguments.device)
    student = load_recipe(ROOT / "training/configs/student-unbalanced.toml")
    hourglass = load_recipe(ROOT / "training/configs/hourglass-4.toml")
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.data or made_up(Path(temporary) / "people")
        dataset = load_dataset(folder, "train", device, limit=512)
        stage = Stage(1, 192, 160, arguments.student_batch)
        name = f"student, {len(student.branches)} branches, {stage.height}x{stage.width}"
        report(name, student, stage, dataset, device, arguments.steps)
        stage = Stage(1, 256, 256, arguments.hourglass_batch)
        report("hourglass-4, 3 branches, 256x256", hourglass, stage, dataset, device, arguments.steps)


if __name__ == "__main__":
    main()
