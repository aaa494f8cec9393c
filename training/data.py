"""COCO-format folders in memory: every picture decoded once, people as tensors."""

import dataclasses
import json
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from app.geometry import BORDER_GREY, warp
from training.coco import find_split

log = logging.getLogger("okdhp.data")
NUM_KEYPOINTS = 17


class DataError(ValueError):
    """A data folder that cannot be used; the message says what was expected where."""


class Pictures:
    """Decoded pictures of any sizes as one flat uint8 buffer, in main memory or on a GPU, sampled through affine maps.

    offset (N,) first byte, size_wh (N, 2) pixels. On the CPU a crop is `app.geometry.warp`, the function that serves;
    on a GPU all crops of a batch are gathered at once, so that the loader is never what training waits for.
    """

    def __init__(self, images: list[np.ndarray], device: torch.device) -> None:
        sizes = [(image.shape[1], image.shape[0]) for image in images]
        starts = np.cumsum([0, *(image.size for image in images)])
        flat = np.empty(starts[-1], np.uint8)
        for index, image in enumerate(images):
            flat[starts[index] : starts[index + 1]] = image.reshape(-1)
            images[index] = np.empty(0)  # frees the copy: at no time are all pictures held twice
        self.device = device
        self.size_wh = torch.tensor(sizes, dtype=torch.int64)
        self.offset = torch.from_numpy(starts[:-1])
        self.flat = torch.from_numpy(flat).to(device)

    def __len__(self) -> int:
        return len(self.offset)

    def picture(self, index: int) -> np.ndarray:
        """One picture (H, W, 3) uint8 RGB, a view of the buffer where it lies in main memory."""
        width, height = self.size_wh[index].tolist()
        start = int(self.offset[index])
        view = self.flat[start : start + width * height * 3]
        return view.cpu().numpy().reshape(height, width, 3)

    def sample(self, index: Tensor, matrices: Tensor, size_hw: tuple[int, int]) -> Tensor:
        """Crops (B, 3, H, W) uint8 on the pictures' device, channels last.

        index (B,) which picture; matrices (B, 2, 3) float64 from picture to crop pixels (app.geometry's convention).
        """
        gather = self.sample_by_gather if self.device.type == "cuda" else self._sample_by_warp
        return gather(index, matrices, size_hw)

    def _sample_by_warp(self, index: Tensor, matrices: Tensor, size_hw: tuple[int, int]) -> Tensor:
        height, width = size_hw
        crops = np.empty((len(index), height, width, 3), np.uint8)
        maps = matrices.numpy()
        for slot, picture in enumerate(index.tolist()):
            crops[slot] = warp(self.picture(picture), maps[slot], (width, height))
        return torch.from_numpy(crops).permute(0, 3, 1, 2)

    def sample_by_gather(self, index: Tensor, matrices: Tensor, size_hw: tuple[int, int]) -> Tensor:
        """`sample` by indexing the flat buffer: bilinear, averaged over 2x2 points per pixel against aliasing."""
        device, (height, width) = self.device, size_hw
        linear = torch.linalg.inv(matrices[:, :, :2])
        shift = -(linear @ matrices[:, :, 2:])
        back = torch.cat([linear, shift], dim=2).float().to(device)  # (B, 2, 3) crop -> picture
        sizes = self.size_wh[index].to(device)
        start = self.offset[index].to(device)
        total = torch.zeros(len(index), height, width, 3, device=device)
        for dy, dx in ((0.25, 0.25), (0.25, 0.75), (0.75, 0.25), (0.75, 0.75)):
            rows = torch.arange(height, device=device) + dy
            columns = torch.arange(width, device=device) + dx
            grid = torch.stack(
                [
                    columns.expand(height, width),
                    rows[:, None].expand(height, width),
                    torch.ones(height, width, device=device),
                ]
            )
            points = torch.einsum("bij,jhw->bihw", back, grid) - 0.5  # (B, 2, H, W), integer = pixel centre
            total += self._bilinear(points, sizes, start)
        return (total / 4).round().clamp(0, 255).to(torch.uint8).permute(0, 3, 1, 2)

    def _bilinear(self, points: Tensor, sizes: Tensor, start: Tensor) -> Tensor:
        """Colours (B, H, W, 3) float at `points` (B, 2, H, W), neighbours outside the picture being grey."""
        corner = points.floor()
        part = points - corner
        x, y = corner.long().unbind(1)
        w, h = (sizes[:, axis, None, None] for axis in (0, 1))
        channels = torch.arange(3, device=points.device)
        result = torch.zeros(*x.shape, 3, device=points.device)
        for step_x, weight_x in ((0, 1 - part[:, 0]), (1, part[:, 0])):
            for step_y, weight_y in ((0, 1 - part[:, 1]), (1, part[:, 1])):
                column, row = x + step_x, y + step_y
                inside = (column >= 0) & (column < w) & (row >= 0) & (row < h)
                cell = start[:, None, None] + (row * w + column) * 3
                colour = self.flat[torch.where(inside, cell, 0)[..., None] + channels].float()
                colour = torch.where(inside[..., None], colour, float(BORDER_GREY))
                result += (weight_x * weight_y)[..., None] * colour
        return result


@dataclass(frozen=True)
class People:
    """N annotated people.

    picture (N,) index into Pictures; boxes (N, 4) xyxy; keypoints (N, 17, 2) in picture pixels; labelled (N, 17) bool;
    area (N,) px^2; ids (N,) annotation ids; image_ids (N,) and sources (N,) of their pictures.
    """

    picture: Tensor
    boxes: Tensor
    keypoints: Tensor
    labelled: Tensor
    area: Tensor
    ids: Tensor
    image_ids: Tensor
    sources: np.ndarray

    def __len__(self) -> int:
        return len(self.picture)

    def subset(self, mask: np.ndarray) -> "People":
        """The people where `mask` (N,) is true."""
        return People(**{f.name: getattr(self, f.name)[mask] for f in dataclasses.fields(self)})


@dataclass(frozen=True)
class Dataset:
    """Pictures and the people in them; `image_ids` and `sources` (len(pictures),) are the pictures'."""

    pictures: Pictures
    people: People
    image_ids: np.ndarray
    sources: np.ndarray


def load_dataset(folder: Path, name: str, device: torch.device | None = None, limit: int | None = None) -> Dataset:
    """Read `name` of a COCO-format folder (`training.coco.find_split` says where) and decode its pictures.

    A broken picture or annotation is named in the log and left out. `limit` takes the first so many pictures of a
    shuffled list (for tests and trials). Raises DataError when the folder holds nothing to use.
    """
    path, folder, source = find_split(folder, name)
    try:
        content = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise DataError(f"{path}: expected a COCO keypoints file: {error}") from error
    entries = content.get("images", [])
    if limit is not None:
        chosen = np.random.default_rng(0).permutation(len(entries))[:limit]
        entries = [entries[i] for i in sorted(chosen)]
    kept, images = decode_all(folder, entries)
    if not images:
        raise DataError(f"{path}: none of its {len(entries)} pictures could be read under {folder}")
    slot = {entry["id"]: index for index, entry in enumerate(kept)}
    sources = np.array([entry.get("source", source) for entry in kept])
    pictures = Pictures(images, device or torch.device("cpu"))
    annotations = [a for a in content.get("annotations", []) if a.get("image_id") in slot]
    people = _people(annotations, slot, sources, pictures.size_wh)
    return Dataset(pictures, people, np.array([entry["id"] for entry in kept]), sources)


def decode_all(folder: Path, entries: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[np.ndarray]]:
    """The entries whose `file_name` under `folder` is a picture, of the stated size if any, and their (H, W, 3) RGB."""

    def decode(entry: dict[str, Any]) -> np.ndarray | str:
        file = folder / str(entry.get("file_name", "(no file_name)"))
        try:
            pixels = cv2.imdecode(np.fromfile(file, np.uint8), cv2.IMREAD_COLOR)
        except (OSError, cv2.error) as error:
            return f"{file}: {error}"
        if pixels is None:
            return f"{file}: not a readable picture"
        height, width = pixels.shape[:2]
        if "width" in entry and (width, height) != (entry["width"], entry["height"]):
            return f"{file}: is {width}x{height}, annotated {entry['width']}x{entry['height']}"
        return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)

    kept, images = [], []
    with ThreadPoolExecutor() as pool:
        decoded = pool.map(decode, entries)
        for entry, result in tqdm(zip(entries, decoded, strict=True), "decode", len(entries), unit="picture"):
            if isinstance(result, str):
                log.warning("left out: %s", result)
            else:
                kept.append(entry)
                images.append(result)
    return kept, images


def annotation_fault(annotation: dict[str, Any], size_wh: tuple[int, int]) -> str | None:
    """Why an annotation cannot be trained on, or None. Labelled keypoints may lie up to 10% outside the picture."""
    try:
        keypoints = np.array(annotation.get("keypoints", []), dtype=np.float64)
        numbers = np.array([*annotation.get("bbox", []), annotation.get("area")], dtype=np.float64)
    except (TypeError, ValueError):
        return "bbox, area or keypoints are not all numbers"
    if keypoints.shape != (3 * NUM_KEYPOINTS,):
        return f"expected {3 * NUM_KEYPOINTS} keypoint numbers, got {keypoints.size}"
    if len(numbers) != 5 or not np.isfinite([*numbers, *keypoints]).all():
        return "bbox, area or keypoints are missing or not finite"
    x, y, w, h, area = numbers.tolist()
    if min(w, h) < 1 or area <= 0:
        return f"its box is {w:g} x {h:g} pixels, its area {area:g}"
    if x + w <= 0 or y + h <= 0 or x >= size_wh[0] or y >= size_wh[1]:
        return "its box lies outside the picture"
    points = keypoints.reshape(-1, 3)
    points = points[points[:, 2] > 0, :2] / size_wh
    if len(points) and (points.min() < -0.1 or points.max() > 1.1):
        return "a labelled keypoint lies far outside the picture"
    return None


def _people(annotations: list[dict[str, Any]], slot: dict[int, int], sources: np.ndarray, sizes: Tensor) -> People:
    rows = []
    for annotation in annotations:
        picture = slot[annotation["image_id"]]
        width, height = sizes[picture].tolist()
        fault = annotation_fault(annotation, (width, height))
        if fault:
            log.warning("left out: annotation %s: %s", annotation.get("id"), fault)
        elif not isinstance(annotation.get("id"), int):
            log.warning("left out: an annotation of picture %s: it has no id", annotation["image_id"])
        elif not annotation.get("iscrowd"):
            rows.append((picture, annotation))
    pictures = np.array([picture for picture, _ in rows], dtype=np.int64)
    table = np.array([a["keypoints"] for _, a in rows], dtype=np.float32).reshape(-1, NUM_KEYPOINTS, 3)
    boxes = np.array([a["bbox"] for _, a in rows], dtype=np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return People(
        picture=torch.from_numpy(pictures),
        boxes=torch.from_numpy(boxes),
        keypoints=torch.from_numpy(table[..., :2].copy()),
        labelled=torch.from_numpy(table[..., 2] > 0),
        area=torch.tensor([float(a["area"]) for _, a in rows]),
        ids=torch.tensor([int(a["id"]) for _, a in rows], dtype=torch.int64),
        image_ids=torch.tensor([int(a["image_id"]) for _, a in rows], dtype=torch.int64),
        sources=sources[pictures] if len(rows) else np.array([], dtype=str),
    )
