"""What `okdhp train` and `evaluate` do, once their options are read."""

import os
import platform
from pathlib import Path

import cv2
import torch

from app.digest import sha256
from app.settings import Settings
from training.answers import answers_of
from training.checkpoint import lineage
from training.config import Recipe
from training.data import Dataset
from training.datasets import load_dataset
from training.evaluate import (
    Measured,
    coco_ap,
    coco_truth,
    complete_pictures,
    detector_table,
    judged,
    load_network,
    measure_poses,
)
from training.joints import MPII
from training.measurable import measurable
from training.metrics import Floats, Found, recall_and_false_rate, recall_at_false_rate
from training.pckh import Pckh
from training.pictures import DataError
from training.pose_crops import check_detector
from training.pose_task import scored
from training.progress import facts_of, goes_on
from training.proposals import regions_of
from training.recipes import load_recipe
from training.served import boxes_and_scores, coco_results, serve
from training.sharing import warn_of_shared
from training.stopping import Stopped
from training.teacher import check_teacher, load_teacher
from training.train import Start, train

# Share of people with OKS >= t, mean over t, of MediaPipe 0.10.21's BlazePose Full on 1.5x crops of the same val.json.
BLAZEPOSE_FULL = {("coco", 2022): 0.29, ("lspet", 496): 0.54}  # by source and number of people: of no others


def run_training(
    recipe: Path,
    data: Path,
    out: Path,
    device: str,
    amp: str,
    init: Path | None,
    max_hours: float,
    limit: int | None,
    teacher: Path | None = None,
    pictures: str = "auto",
    compiled: bool = False,
    detector: Path | None = None,
) -> Path:
    """Train `recipe` on the split train of the COCO-format or MPII folder `data`; returns the checkpoint's path.

    Raises Stopped, having printed the path, where a signal ended training.
    """
    chosen, values = device_to_train_on(device), load_recipe(recipe)  # before the pictures, which take their time
    check_detector(values, detector is not None)
    check_teacher(values, teacher)
    if detector is not None:
        load_network(detector, "detector")
    if chosen.type == "cuda" and "LOCAL_RANK" in os.environ:  # set by torchrun
        chosen = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(chosen)
    fast = wants_amp(amp, chosen)
    dataset = load_dataset(data, "train", chosen, limit, pictures)
    warn_of_shared(data)
    print(f"{len(dataset.people)} people in {len(dataset.pictures)} pictures; {chosen}{', bfloat16' if fast else ''}")
    about = {"data": f"{len(dataset.people)} people of {data.name}, split train", "hardware": hardware(chosen)}
    if detector is not None:
        about["detector"] = sha256(detector)
    before, taught_by = lineage(init) if init is not None else [], sha256(teacher) if teacher is not None else ""
    # Before anything is asked and kept in `out`: the files of another run stay as they are.
    goes_on(out / "last.pt", values, taught_by, facts_of(dataset, about), before)
    start = _start(values, dataset, out, chosen, init, teacher, detector)
    try:
        return train(
            values,
            dataset,
            out,
            device=chosen,
            amp=fast,
            start=start,
            max_hours=max_hours,
            compiled=compiled,
            about=about,
        )
    except Stopped:
        print(out / "last.pt")
        raise


def _start(
    recipe: Recipe,
    dataset: Dataset,
    out: Path,
    device: torch.device,
    init: Path | None,
    teacher: Path | None,
    detector: Path | None,
) -> Start:
    """What a run begins with; what the detector and a teacher asked once see of `dataset` is kept in `out`."""
    regions = regions_of(detector, dataset, recipe.holdout, out / "regions.pt") if detector is not None else None
    answers = None
    if recipe.teacher_once and teacher is not None:
        answers = answers_of(load_teacher(teacher, recipe, device, dataset.joints), dataset, device, out / "answers.pt")
    return Start(init, teacher=teacher, regions=regions, answers=answers)


def device_to_train_on(name: str) -> torch.device:
    """`pick_device`, and this process has the threads that suit it. Raises ValueError likewise."""
    device = pick_device(name)
    cv2.setNumThreads(1)  # torch already uses every core
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(threads_beside(device))
    return device


def pick_device(name: str) -> torch.device:
    """The torch device for auto|cpu|cuda|cuda:N. Raises ValueError for others, and for CUDA where it is absent."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"a device is auto, cpu, cuda or cuda:N, got {name!r}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {name} was asked for, but PyTorch {torch.__version__} sees no CUDA device")
    return device


def threads_beside(device: torch.device) -> int:
    """How many threads one operation on the CPU takes where the network is on `device`.

    Beside a GPU the CPU has tables of a few hundred rows: threads wait for one another longer than they work. On 16
    cores, with another process there, a step of weights/pose.toml took 250 ms with all of them and 62 with one.
    """
    return 1 if device.type == "cuda" else torch.get_num_threads()


def wants_amp(choice: str, device: torch.device) -> bool:
    """bfloat16 for auto|on|off: auto is on for CUDA, and for CPUs with instructions that make it the faster type.

    Raises ValueError for another choice.
    """
    if choice not in ("auto", "on", "off"):
        raise ValueError(f"amp is auto, on or off, got {choice!r}")
    if choice == "auto":
        return device.type == "cuda" or any(flag in _cpu_flags() for flag in ("amx_bf16", "avx512_bf16"))
    return choice == "on"


def _cpu_flags() -> str:
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""


def run_evaluate(
    data: Path, split: str, pose: Path, detector: Path | None, limit: int | None, held_out: float = 0.0
) -> None:
    """Print what the deployed files reach on `data`'s `split`: poses with listed boxes, people found, COCO AP.

    On MPII: PCKh. held_out: above 0, only on the pictures that training with this holdout keeps aside.
    Raises DataError where nobody is annotated there.
    """
    network = load_network(pose, "pose")  # before the pictures, which take their time
    if detector is not None:
        load_network(detector, "detector")
    dataset = load_dataset(data, split, limit=limit, held_out=held_out)
    warn_of_shared(data, split)
    if not len(dataset.people):
        raise DataError(f"{data}: nobody is annotated in split {split}")
    if dataset.joints == MPII:
        measured = measure_poses(network, dataset)
        _print_pckh(pose, measured.pckh())
        _print_reliability(measured)
        return
    if scored(dataset.people, dataset.joints).any():
        _print_poses(pose, measure_poses(network, dataset))
    else:
        print("\nnobody here is tall enough and has enough labelled keypoints: poses are not measured")
    if detector is not None and measurable(dataset, "detector").any():
        _print_whole(pose, detector, dataset, split)
    elif detector is not None:
        print("\nnobody here is tall enough to be found: detectors are not measured")


def _print_poses(pose: Path, measured: Measured) -> None:
    print(f"\n{pose}, listed boxes, no flip test: share of people with OKS >= t, mean over t = .50:.05:.95")
    print(f"{'source':<10}{'people':>8}{'share':>9}{'BlazePose Full':>16}")
    for source, (count, value) in measured.oks_table().items():
        known = BLAZEPOSE_FULL.get((source, count))
        print(f"{source:<10}{count:>8}{value:>9.3f}{known if known is not None else '':>16}")
    _print_reliability(measured)


def _print_whole(pose: Path, detector: Path, dataset: Dataset, split: str) -> None:
    """People found in the pictures where everybody is annotated: by the detector alone, and as the service does it."""
    row, pictures = detector_table(load_network(detector, "detector"), dataset), complete_pictures(dataset)
    print(f"\n{detector}: recall of people taller than 64 px at 0.3 false people a picture (IoU 0.5)")
    print(f"recall {row['recall_at_0.3_false']:.3f} at score {row['threshold']:.3f}, {row['pictures']} pictures")
    served = serve(pose, detector, dataset, pictures)
    _print_served(*judged(boxes_and_scores(served), dataset, pictures))
    if not dataset.people.labelled.any():
        return
    image_ids = [int(dataset.image_ids[index]) for index in pictures]
    scores = coco_ap(coco_truth(dataset), coco_results(served, image_ids), image_ids)
    print(f"COCO keypoint AP on {split}.json, no boxes given:")
    print("  ".join(f"{name} {value:.3f}" for name, value in scores.items()))


def _print_reliability(measured: Measured) -> None:
    bins, gap = measured.reliability()
    print("\nkeypoint scores: the mean of those in each tenth, and the share of keypoints with OKS >= .5 (or PCKh@0.5)")
    print("score   " + "".join(f"{b.score:>7.2f}" for b in bins))
    print("right   " + "".join(f"{b.right:>7.2f}" for b in bins))
    print("points  " + "".join(f"{b.points:>7}" for b in bins) + f"   mean gap {gap:.3f}")


def _print_served(found: Found, listed: list[Floats]) -> None:
    recall, threshold = recall_at_false_rate(found, listed)
    default = float(Settings.model_fields["min_score"].default)
    now, false = recall_and_false_rate(found, listed, default)
    print("\nboth, as the service runs them: recall of people taller than 64 px (IoU 0.5)")
    print(f"recall {recall:.3f} at 0.3 false people a picture, from person scores of {threshold:.3f} on")
    print(f"recall {now:.3f} with {false:.2f} false people a picture at the default POSE_MIN_SCORE of {default:g}")


def _print_pckh(pose: Path, found: Pckh) -> None:
    print(f"\n{pose}, given boxes, no flip test: PCKh@0.5 in percent, as the MPII benchmark's table has it")
    print("".join(f"{name:>10}" for name in (*found.groups, "mean")))
    print("".join(f"{100 * value:>10.1f}" for value in (*found.groups.values(), found.at_50)))
    print(f"PCKh@0.1 {100 * found.at_10:.1f}, area under the curve {100 * found.auc:.1f}")


def hardware(device: torch.device) -> str:
    """A few words on what trained: the GPU's or the CPU's name and how many cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    names = [line.split(":")[1].strip() for line in _cpu_flags().splitlines() if line.startswith("model name")]
    return f"{os.cpu_count()} cores of {names[0] if names else platform.processor() or 'an unknown CPU'}"
