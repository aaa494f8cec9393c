"""Where the bundled pose student is right and where it fails, and what its scores are worth.

    python -m benchmarks.weights --data DIR [--split val] [--pose weights/pose.onnx] [--out docs/weights.png]

OKS share by the person's size, posture and joint; under what webcams do to pictures; of upper bodies cut at the hips as
webcams cut them; and how scores of keypoints and people go with being right. `--out` draws it.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import spearmanr

from app.geometry import crop_matrix, invert, transform, warp
from app.scoring import person_scores
from benchmarks.command import one_line_errors
from training.calibration import Bin, right_keypoints
from training.data import Dataset
from training.datasets import load_dataset
from training.evaluate import Measured, Network, load_network, measure_poses
from training.metrics import oks, oks_share

Change = Callable[[np.ndarray], np.ndarray]
Table = dict[str, tuple[int, float]]  # by group: how many, and their share or score
ROOT = Path(__file__).parent.parent
SHOULDERS, HIPS = [5, 6], [11, 12]
HEIGHTS_PX = ((64, 96), (96, 160), (160, 256), (256, 10_000))
POSTURES = (("upright", 0, 30), ("leaning", 30, 60), ("lying", 60, 120), ("upside down", 120, 181))
RANDOM = np.random.default_rng(0)


def darker(crop: np.ndarray) -> np.ndarray:
    return crop // 5


def noisy(crop: np.ndarray) -> np.ndarray:
    return np.clip(crop + RANDOM.normal(0, 20, crop.shape), 0, 255).astype(np.uint8)


def blurred(crop: np.ndarray) -> np.ndarray:
    return np.asarray(cv2.GaussianBlur(crop, (0, 0), 2.0), np.uint8)


def compressed(crop: np.ndarray) -> np.ndarray:
    _, data = cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, 15])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


CHANGES: dict[str, Change] = {
    "as they are": lambda crop: crop,
    "a fifth of the light": darker,
    "noise of 20 levels": noisy,
    "blur of 2 pixels": blurred,
    "JPEG at quality 15": compressed,
}


def posture_deg(measured: Measured) -> NDArray[np.floating]:
    """How far (N,) shoulders to hips lean from straight down, 0..180; NaN where either is not labelled."""
    keypoints, labelled = measured.people.keypoints.numpy(), measured.people.labelled.numpy()

    def middle(pair: list[int]) -> NDArray[np.floating]:
        return np.where(labelled[:, pair].all(1)[:, None], keypoints[:, pair].mean(1), np.nan)

    spine = middle(HIPS) - middle(SHOULDERS)
    return np.asarray(np.abs(np.degrees(np.arctan2(spine[:, 0], spine[:, 1]))))


def by_group(measured: Measured) -> Table:
    """OKS share of the people of each size and posture."""
    people, similarity = measured.people, similarities(measured)
    height, lean = (people.boxes[:, 3] - people.boxes[:, 1]).numpy(), posture_deg(measured)
    groups = {f"{low} to {high} px tall": (height >= low) & (height < high) for low, high in HEIGHTS_PX[:-1]}
    groups[f"from {HEIGHTS_PX[-1][0]} px"] = height >= HEIGHTS_PX[-1][0]
    for name, low, high in POSTURES:
        groups[name] = (lean >= low) & (lean < high)
    return {name: (int(chosen.sum()), oks_share(similarity[chosen])) for name, chosen in groups.items()}


def similarities(measured: Measured) -> NDArray[np.floating]:
    """Each person's OKS (N,)."""
    people = measured.people
    return oks(measured.keypoints, people.keypoints.numpy(), people.labelled.numpy(), people.area.numpy())


def by_joint(measured: Measured) -> Table:
    """Share of each joint's labelled keypoints that have an OKS of at least .5; left and right together."""
    right, labelled = right_keypoints(measured.keypoints, measured.people, measured.joints), measured.people.labelled
    found: Table = {}
    for joint in dict.fromkeys(name.removeprefix("left_").removeprefix("right_") for name in measured.joints.names):
        columns = [i for i, name in enumerate(measured.joints.names) if name.endswith(joint)]
        count = int(labelled[:, columns].sum())
        found[joint] = (count, float(right[:, columns].sum() / max(count, 1)))
    return found


def under_changes(network: Network, dataset: Dataset) -> Table:
    """OKS share when every crop is changed."""
    found: Table = {}
    for name, change in CHANGES.items():
        changed = Network(network.size_wh, lambda crops, change=change: network.run([change(crop) for crop in crops]))
        found[name] = measure_poses(changed, dataset).oks_table()["all"]
    return found


def cut_at_hips(network: Network, dataset: Dataset, measured: Measured) -> tuple[Table, dict[str, float]]:
    """OKS share of upright people's upper joints, whole and in pictures that end at the hips; and the legs' scores."""
    joints, people = measured.joints, measured.people
    upper = np.isin(np.arange(len(joints.names)), joints.upper)
    legs = [i for i, name in enumerate(joints.names) if name.endswith(("knee", "ankle"))]
    labelled, lean = people.labelled.numpy(), posture_deg(measured)
    chosen = (lean < 30) & labelled[:, legs].all(1) & ((labelled & upper).sum(1) >= 5)
    people = people.subset(chosen)
    keypoints, scores = [], []
    for row in range(len(people)):
        picture, box = dataset.pictures.picture(int(people.picture[row])), people.boxes[row].numpy().copy()
        box[3] = min(people.keypoints[row, HIPS, 1].max().item() + 2, len(picture))
        matrix = crop_matrix(box, network.size_wh)
        points, confidence, *_ = network.run([warp(picture[: int(box[3])], matrix, network.size_wh)])
        keypoints.append(transform(points[0], invert(matrix)))
        scores.append(confidence[0])
    truth, area = people.keypoints.numpy(), people.area.numpy()
    counted = people.labelled.numpy() & upper
    shares = {
        "upper joints, whole": (len(people), oks_share(oks(measured.keypoints[chosen], truth, counted, area))),
        "upper joints, cut at hips": (len(people), oks_share(oks(np.stack(keypoints), truth, counted, area))),
    }
    whole = float(measured.scores[chosen][:, legs].mean())
    return shares, {"in view": whole, "outside": float(np.stack(scores)[:, legs].mean())}


def show(title: str, table: Table) -> None:
    print(f"\n{title}")
    for name, (count, value) in table.items():
        print(f"  {name:<24}{count:>7}{value:>8.3f}")


def draw(bins: list[Bin], gap: float, tables: dict[str, Table], path: Path) -> None:
    """The reliability of keypoint scores, and every table as bars."""
    figure = Figure(figsize=(12, 5), layout="constrained")
    left, *rest = figure.subplots(1, 1 + len(tables), width_ratios=(1.3, *[1.0] * len(tables)))
    left.plot([0, 1], [0, 1], color="tab:grey", linewidth=1)
    sizes = np.array([b.points for b in bins])
    left.scatter([b.score for b in bins], [b.right for b in bins], s=20 + 300 * sizes / sizes.max(), color="tab:blue")
    left.set(xlim=(0, 1), ylim=(0, 1), xlabel="score of the keypoint", ylabel="share that is right (OKS >= .5)")
    left.set_title(f"scores: mean gap {gap:.3f}")
    left.set_aspect("equal")
    for axes, (title, table) in zip(rest, tables.items(), strict=True):
        values = [value for _, value in table.values()]
        bars = axes.barh(range(len(values)), values, color="tab:blue")
        axes.bar_label(bars, fmt="%.2f", padding=2)
        axes.set_yticks(range(len(values)), list(table))
        axes.set(xlim=(0, 1.1), title=title)
        axes.invert_yaxis()
    figure.savefig(path, dpi=110)


@one_line_errors()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--pose", type=Path, default=ROOT / "weights/pose.onnx")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    network = load_network(arguments.pose, "pose")  # before the pictures, which take their time
    dataset = load_dataset(arguments.data, arguments.split, torch.device("cpu"))
    measured = measure_poses(network, dataset)
    groups, joints = by_group(measured), by_joint(measured)
    show("OKS share by size and posture", groups)
    show("share of keypoints with OKS >= .5 by joint", joints)
    show("OKS share when the pictures are changed", changes := under_changes(network, dataset))
    shares, legs = cut_at_hips(network, dataset, measured)
    show("OKS share of upright people's upper joints", shares)
    print(f"mean score of their knees and ankles: {legs['in view']:.2f} in view, {legs['outside']:.2f} outside")
    labelled, coco = measured.people.labelled.numpy(), (measured.people.sources == "coco")[:, None]
    seen, unseen = measured.scores[labelled & coco].mean(), measured.scores[~labelled & coco].mean()
    print(f"mean score of COCO's keypoints: {seen:.2f} labelled, {unseen:.2f} not (out of sight or of the picture)")
    rank = spearmanr(person_scores(measured.scores), similarities(measured)).statistic
    print(f"rank correlation of people's scores and OKS: {rank:.2f}")
    if arguments.out:
        bins, gap = measured.reliability()
        tables = {"OKS share": groups, "keypoints right": joints, "pictures changed": changes | shares}
        draw(bins, gap, tables, arguments.out)


if __name__ == "__main__":
    main()
