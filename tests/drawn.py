"""Drawn people, learnable in seconds, as a COCO-format folder."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

# Where a drawn person's 17 keypoints are, in parts of the box.
LAYOUT = np.array(
    [(0.5, 0.08), (0.54, 0.05), (0.46, 0.05), (0.6, 0.07), (0.4, 0.07), (0.7, 0.22), (0.3, 0.22), (0.85, 0.38)]
    + [(0.15, 0.38), (0.95, 0.52), (0.05, 0.52), (0.63, 0.52), (0.37, 0.52), (0.66, 0.74), (0.34, 0.74)]
    + [(0.68, 0.95), (0.32, 0.95)]
)


def draw_person(image: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """Draws into `image` (H, W, 3) and returns the keypoints (17, 2): each its own colour, so that it can be learnt."""
    x, y, w, h = box
    points = LAYOUT * (w, h) + (x, y)
    cv2.rectangle(image, (x, y), (x + w, y + h), (70, 70, 90), -1)
    for index, (px, py) in enumerate(points):
        colour = cv2.applyColorMap(np.uint8([[index * 15]]), cv2.COLORMAP_HSV)[0, 0].tolist()
        cv2.circle(image, (int(px), int(py)), max(h // 25, 2), colour, -1)
    return points


def annotation(number: int, image_id: int, box: tuple[int, int, int, int], points: np.ndarray) -> dict[str, Any]:
    flat = np.concatenate([points, np.full((17, 1), 2.0)], axis=1).round(2).ravel().tolist()
    area = 0.53 * box[2] * box[3]
    return {"id": number, "image_id": image_id, "category_id": 1, "iscrowd": 0, "bbox": list(box), "area": area,
            "keypoints": flat, "num_keypoints": 17}  # fmt: skip


def write_folder(folder: Path, pictures: int) -> Path:
    """`pictures` drawn pictures with one or two people each, as train.json and val.json."""
    (folder / "images").mkdir(parents=True)
    random = np.random.default_rng(0)
    images, annotations = [], []
    for image_id in range(1, pictures + 1):
        width, height = (160, 128) if image_id % 2 else (128, 176)
        image = random.integers(0, 60, (height, width, 3), dtype=np.uint8)
        for slot in range(1 + image_id % 2):
            left, top, height_px = (int(random.integers(*span)) for span in ((5, 20), (5, 20), (80, 100)))
            box = (left + slot * 75, top, 50, height_px)
            annotations.append(annotation(len(annotations) + 1, image_id, box, draw_person(image, box)))
        name = f"{image_id}.png"
        cv2.imwrite(str(folder / "images" / name), image[..., ::-1])
        images.append({"id": image_id, "file_name": name, "width": width, "height": height, "source": "coco"})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]}
    for split in ("train", "val"):
        (folder / f"{split}.json").write_text(json.dumps(content))
    return folder


def changed(folder: Path, target: Path, edit: Callable[[Any], object]) -> Path:
    """A copy of `folder` whose train.json went through `edit`."""
    shutil.copytree(folder, target)
    content = json.loads((target / "train.json").read_text())
    edit(content)
    (target / "train.json").write_text(json.dumps(content))
    return target
