"""Training speed: our trainer's step beside a plain version of the OKDHP authors' step, in one run on this machine.

    python -m benchmarks.training [--data DIR] [--device auto] [--rounds 3] [--student-batch 64] [--hourglass-batch 4]

Theirs, as their repository (zhengli97/OKDHP) trains: fp32, contiguous tensors, the FAU at full width, every picture
read, cut, normalised and given its heatmaps by a loader in worker processes. Ours: `okdhp train`'s own step, pictures
decoded once, batches cut and augmented at once, channels last, bfloat16 where it pays; with their FAU and with the slim
one. They take turns, so that a noisy machine slows them alike; trust the ratios. Without --data, pictures are made up.
--data: a folder with images/ and train.json; of no other layout, as the plain loader reads the files itself.
"""

import argparse
import dataclasses
import itertools
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from app.geometry import crop_matrix, transform
from benchmarks.command import at_least, one_line_errors
from training.commands import pick_device, wants_amp
from training.config import Recipe, Stage
from training.data import Dataset
from training.datasets import load_dataset
from training.pose_network import build_model
from training.recipes import load_recipe
from training.train import prepare, seeded, train_step

ROOT = Path(__file__).parent.parent
MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
Step = Callable[[], dict[str, float]]  # one training step; seconds by what they went into


class PlainPeople(TorchDataset[tuple[Tensor, Tensor, Tensor]]):
    """A person an item, made from its file each time: normalised crop (3, H, W), heatmaps (K, H/4, W/4), weights.

    Raises ValueError for a folder of another layout than images/ and train.json, and for one without keypoints.
    """

    def __init__(self, folder: Path, size_hw: tuple[int, int]) -> None:
        for path in (folder / "images", folder / "train.json"):
            if not path.exists():
                raise ValueError(f"--data: the plain loader needs images/ and train.json, and {path} is not there")
        content = json.loads((folder / "train.json").read_text())
        files = {image["id"]: folder / "images" / image["file_name"] for image in content["images"]}
        self.people = [(files[a["image_id"]], a) for a in content["annotations"] if any(a.get("keypoints") or ())]
        if not self.people:
            raise ValueError(f"--data: nobody in {folder / 'train.json'} has keypoints")
        self.size_hw = size_hw

    def __len__(self) -> int:
        return len(self.people)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        file, annotation = self.people[index % len(self.people)]
        image = cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB)
        x, y, w, h = annotation["bbox"]
        height, width = self.size_hw
        matrix = crop_matrix(np.array([x, y, x + w, y + h]), (width, height))
        angle = np.random.uniform(-30, 30) if np.random.random() < 0.6 else 0.0
        turn = np.vstack([cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1.0), [0, 0, 1]])
        matrix = (turn @ np.vstack([matrix, [0, 0, 1]]))[:2]
        crop = cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR)
        pixels = (crop.astype(np.float32) / 255 - MEAN) / STD
        table = np.array(annotation["keypoints"], dtype=np.float64).reshape(-1, 3)
        heatmaps = gaussians(transform(table[:, :2], matrix) / 4, (height // 4, width // 4))
        weight = torch.from_numpy((table[:, 2] > 0).astype(np.float32))
        return torch.from_numpy(pixels.transpose(2, 0, 1)).contiguous(), torch.from_numpy(heatmaps), weight


def gaussians(centres: np.ndarray, size_hw: tuple[int, int], sigma: float = 2.0) -> np.ndarray:
    """A bell of peak 1 in a patch of three sigmas around each of `centres` (K, 2), in maps (K, H, W)."""
    maps, reach = np.zeros((len(centres), *size_hw), np.float32), int(3 * sigma)
    for index, (x, y) in enumerate(centres.round().astype(int).tolist()):
        rows = np.arange(max(y - reach, 0), min(y + reach + 1, size_hw[0]))
        columns = np.arange(max(x - reach, 0), min(x + reach + 1, size_hw[1]))
        if len(rows) and len(columns):
            bell = np.exp(-((rows[:, None] - y) ** 2 + (columns[None] - x) ** 2) / (2 * sigma**2))
            maps[index, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = bell
    return maps


def plain_step(recipe: Recipe, folder: Path, stage: Stage, device: torch.device) -> Step:
    """The authors' step: forward, MSE of every heatmap and of the ensemble, KL to the ensemble, Adam; all in fp32."""
    model = build_model(recipe).to(device).train()
    optimiser = torch.optim.Adam(model.parameters(), lr=2.5e-4)
    people = PlainPeople(folder, (stage.height, stage.width))
    workers = os.cpu_count() or 1
    loader = DataLoader(people, stage.batch, shuffle=True, num_workers=workers, drop_last=True, persistent_workers=True)

    def forever() -> Iterator[list[Tensor]]:
        while True:
            yield from loader

    source = forever()

    def step() -> dict[str, float]:
        began = time.perf_counter()
        images, target, weight = (value.to(device) for value in next(source))
        loaded = time.perf_counter()
        outputs = model(images)
        maps = list(outputs.shared)
        for branch in outputs.branches.values():
            maps += [*branch.intermediate, branch.final]
        loss = sum(mse(found, target, weight) for found in [*maps, outputs.ensemble])
        loss = loss + 2 * sum(kl(found, outputs.ensemble) for found in maps)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        wait(device)
        return {"input": loaded - began, "network": time.perf_counter() - loaded}

    return step


def mse(heatmaps: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Mean squared error of the labelled keypoints' heatmaps."""
    return ((heatmaps - target).square().mean((2, 3)) * weight).mean()


def kl(student: Tensor, teacher: Tensor) -> Tensor:
    """KL of the softmax over pixels, at temperature 1 and divided by their number, as the authors have it."""
    p, log_q = F.softmax(teacher.flatten(2), 2), F.log_softmax(student.flatten(2), 2)
    return F.kl_div(log_q, p, reduction="sum") / student.numel()


def our_step(recipe: Recipe, dataset: Dataset, stage: Stage, device: torch.device, amp: bool) -> Step:
    """`okdhp train`'s own step, with a watch beside it."""
    run, number = prepare(dataclasses.replace(recipe, stages=(stage,)), dataset, device, amp), itertools.count()

    def step() -> dict[str, float]:
        began, count = time.perf_counter(), next(number)
        rows = torch.randint(len(run.task), (stage.batch,), generator=seeded(0, 0, count))
        images, targets = run.task.batch(rows, stage, seeded(0, 1, count))
        wait(device)
        loaded = time.perf_counter()
        train_step(run, images, targets, stage, recipe.learning_rate, recipe.kd_weight)
        wait(device)
        return {"input": loaded - began, "network": time.perf_counter() - loaded}

    run.model.train()
    return step


def wait(device: torch.device) -> None:
    """Until the device has done what it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def made_up(folder: Path, count: int = 256) -> Path:
    """A COCO-format folder of noise pictures of 480x360 with a person each."""
    (folder / "images").mkdir(parents=True)
    random, images, annotations = np.random.default_rng(0), [], []
    for number in range(1, count + 1):
        small = random.integers(0, 255, (45, 60, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / "images" / f"{number}.jpg"), cv2.resize(small, (480, 360)))
        keypoints = np.concatenate([random.uniform((150, 50), (300, 320), (17, 2)), np.full((17, 1), 2.0)], axis=1)
        images.append({"id": number, "file_name": f"{number}.jpg", "width": 480, "height": 360})
        annotations.append({"id": number, "image_id": number, "category_id": 1, "iscrowd": 0, "area": 20000.0,
                            "bbox": [140, 40, 170, 290], "keypoints": keypoints.ravel().tolist()})  # fmt: skip
    (folder / "train.json").write_text(json.dumps({"images": images, "annotations": annotations, "categories": []}))
    return folder


def compare(name: str, recipe: Recipe, stage: Stage, folder: Path, device: torch.device, rounds: int) -> None:
    """Print pictures a second of their step and ours, with their FAU and the slim one, and what ours spends time on."""
    amp, same = wants_amp("auto", device), dataclasses.replace(recipe, fau="sum")
    theirs = plain_step(same, folder, stage, device)  # before the pictures are decoded: it may refuse the folder
    dataset = load_dataset(folder, "train", device, limit=512)
    steps = {
        "theirs": theirs,
        "same FAU": our_step(same, dataset, stage, device, amp),
        "slim FAU": our_step(dataclasses.replace(recipe, fau="slim"), dataset, stage, device, amp),
    }
    spent: dict[str, list[dict[str, float]]] = {kind: [] for kind in steps}
    for turn in range(rounds + 1):
        for kind, step in steps.items():
            found = step()
            if turn > 0:  # the first one warms up
                spent[kind].append(found)
    speed = {kind: stage.batch / np.median([sum(s.values()) for s in parts]) for kind, parts in spent.items()}
    share = np.median([s["input"] / sum(s.values()) for s in spent["slim FAU"]])
    print(f"{name:<34}" + "".join(f"{value:>10.2f}" for value in speed.values()), end="")
    print("".join(f"{speed[kind] / speed['theirs']:>10.2f}" for kind in ("same FAU", "slim FAU")), end="")
    print(
        f"   input {100 * share:.0f}%, network {100 * (1 - share):.0f}% ({'bfloat16' if amp else 'fp32'})", flush=True
    )


def read_arguments(description: str | None, **counts: int) -> argparse.Namespace:
    """What a training benchmark is told: data, device, and `counts` with these defaults. Leaves OpenCV one thread."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a COCO-format folder: images/ and train.json")
    parser.add_argument("--device", default="auto")
    for name, default in counts.items():
        least = 2 if name.endswith("batch") else 1  # some batch norms see one value of each picture
        parser.add_argument(f"--{name.replace('_', '-')}", type=at_least(least), default=default)
    cv2.setNumThreads(1)  # torch already uses every core
    return parser.parse_args()


@one_line_errors()
def main() -> None:
    arguments = read_arguments(__doc__, rounds=3, student_batch=64, hourglass_batch=4)
    device = pick_device(arguments.device)
    student = load_recipe(ROOT / "training/configs/student-unbalanced.toml")
    hourglass = load_recipe(ROOT / "training/configs/hourglass-4.toml")
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.data or made_up(Path(temporary) / "people")
        columns = ("theirs", "same FAU", "slim FAU", "ratio", "ratio")
        print(f"{'pictures a second':<34}" + "".join(f"{column:>10}" for column in columns) + "   where ours goes")
        finest = student.stages[-1]
        stage = dataclasses.replace(finest, batch=arguments.student_batch)
        name = f"student, {len(student.branches)} branches, {stage.height}x{stage.width}"
        compare(name, student, stage, folder, device, 3 * arguments.rounds)
        stage = Stage(1, 256, 256, batch=arguments.hourglass_batch)
        compare("hourglass-4, 3 branches, 256x256", hourglass, stage, folder, device, arguments.rounds)


if __name__ == "__main__":
    main()
