"""The two networks as the pipeline sees them: crops to keypoints, pictures to boxes.

Our own ONNX files take uint8 (N, H, W, 3) RGB and give keypoints or boxes. Files of other makers are told apart by what
they declare: a float (N, 3, H, W) input is normalised here (the model card may give `mean` and `std`, else ImageNet's),
and heatmaps or SimCC outputs are decoded here. A file that is none of these stops the start.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.digest import sha256
from app.engine import Engine
from app.errors import ModelError, StartError
from app.geometry import Floats, Image
from app.skeleton import KEYPOINT_NAMES

IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # RGB, 0..255
COUNT = len(KEYPOINT_NAMES)
POSE_OUTPUTS, BOX_OUTPUTS = ("keypoints", "scores"), ("boxes", "fit")


def read_card(path: Path) -> dict[str, Any]:
    """The model card beside an ONNX file; {} when there is none.

    Raises StartError when it is not a JSON object, or is of another file: its threshold and name would be believed.
    """
    card_path = path.with_suffix(".json")
    if not card_path.is_file():
        return {}
    try:
        card = json.loads(card_path.read_text())
    except ValueError as error:
        raise StartError(f"{card_path}: this model card is not JSON: {error}") from error
    if not isinstance(card, dict):
        raise StartError(f"{card_path}: a model card is a JSON object")
    if "sha256" in card and card["sha256"] != sha256(path):
        raise StartError(f"{card_path}: is of another file than {path.name}: export again, or delete this card")
    return card


class Network:
    """An engine with its card and its input's layout. `size_wh` is the input's width and height in pixels."""

    task = ""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.card = read_card(engine.path)
        tensor = engine.inputs[0]
        _, *sides = tensor.shape
        self._channels_first = sides[0] == 3
        height, width = sides[1:] if self._channels_first else sides[:2]
        if tensor.dtype not in ("uint8", "float32") or 3 not in (sides[0], sides[2]) or not (height and width):
            raise StartError(
                f"{engine.path}: the input must be uint8 or float32 with 3 channels and a fixed height and width, "
                f"this one is {tensor.dtype} {tensor.shape}"
            )
        self.size_wh = (width, height)
        self._float = tensor.dtype == "float32"
        given = self.card.get("input", {})
        self._mean = np.array(given.get("mean", IMAGENET_MEAN), np.float32)
        self._scale = 1 / np.array(given.get("std", IMAGENET_STD), np.float32)
        self._shape = (3, height, width) if self._channels_first else (height, width, 3)

    @property
    def name(self) -> str:
        """The card's name for the network, or the file's."""
        return str(self.card.get("name", self.engine.path.stem))

    @property
    def version(self) -> str:
        """The card's version, "unknown" without one."""
        return str(self.card.get("version", "unknown"))

    def outputs(self, images: list[Image]) -> dict[str, NDArray[Any]]:
        """Raw outputs for `images`, each (height, width, 3) uint8 RGB of the input's size. Raises ModelError."""
        return self.engine.run(self._batch(images))

    def _batch(self, images: list[Image]) -> NDArray[Any]:
        batch: NDArray[Any] = np.stack(images)  # (N, H, W, 3)
        if self._float:
            batch = (batch - self._mean) * self._scale
        if self._channels_first:
            batch = batch.transpose(0, 3, 1, 2)  # (N, 3, H, W)
        return np.ascontiguousarray(batch)


@dataclass(frozen=True)
class CropPose:
    """Keypoints (17, 2) x, y in crop pixels and their scores (17,) in 0..1.

    From a network with a box head also the person's own box (4,) x1, y1, x2, y2 in crop pixels, perhaps outside the
    crop, and how well that is expected to fit a person (IoU), 0..1; else None.
    """

    keypoints: Floats
    scores: Floats
    box_xyxy: Floats | None = None
    fit: float | None = None


@dataclass(frozen=True)
class Boxes:
    """Boxes (K, 4) x1, y1, x2, y2 in input pixels and their scores (K,), in no order. Several may name one person."""

    boxes_xyxy: Floats
    scores: Floats


class PoseNetwork(Network):
    """Crops of people to keypoints: an output pair keypoints, scores; or simcc_x, simcc_y; or heatmaps.

    With the first pair may come boxes and fit, of a box head (model/box_head.py).
    """

    task = "pose"

    def warm(self) -> None:
        """Run each batch size once and check what comes out. Raises StartError."""
        outputs = self.engine.warm(self._shape)
        try:
            keypoints, scores = self._decode(outputs)
        except ModelError as error:
            raise StartError(f"{self.engine.path}: {error}") from error
        if keypoints.shape[1:] != (COUNT, 2) or scores.shape[1:] != (COUNT,):
            raise StartError(
                f"{self.engine.path}: {COUNT} keypoints are needed, this network gives {keypoints.shape[1:]}"
            )
        if self._has_box_head(outputs) and (outputs["boxes"].shape[1:] != (4,) or outputs["fit"].ndim != 1):
            shapes = f"boxes {outputs['boxes'].shape} and fit {outputs['fit'].shape}"
            raise StartError(f"{self.engine.path}: a box head gives boxes (N, 4) and fit (N,), this one {shapes}")

    @staticmethod
    def _has_box_head(outputs: dict[str, NDArray[Any]]) -> bool:
        return {*POSE_OUTPUTS, *BOX_OUTPUTS} <= outputs.keys()

    def run(self, crops: list[Image]) -> list[CropPose]:
        """One pose per crop. Raises ModelError."""
        outputs = self.outputs(crops)
        keypoints, scores = self._decode(outputs)
        regions = [outputs[name].astype(np.float32) for name in BOX_OUTPUTS] if self._has_box_head(outputs) else []
        if not all(np.isfinite(values).all() for values in (keypoints, scores, *regions)):
            raise ModelError("the pose network gave numbers that are not finite")
        scores = scores.clip(0, 1)
        if not regions:
            return [CropPose(*pose) for pose in zip(keypoints, scores, strict=True)]
        boxes, fits = regions[0], regions[1].clip(0, 1).tolist()
        return [CropPose(*pose) for pose in zip(keypoints, scores, boxes, fits, strict=True)]

    def _decode(self, outputs: dict[str, NDArray[Any]]) -> tuple[Floats, Floats]:
        if set(POSE_OUTPUTS) <= outputs.keys():
            return outputs["keypoints"].astype(np.float32), outputs["scores"].astype(np.float32)
        if "simcc_x" in outputs and "simcc_y" in outputs:
            return decode_simcc(outputs["simcc_x"], outputs["simcc_y"], self.size_wh)
        heatmaps = next(iter(outputs.values()))
        if len(outputs) == 1 and heatmaps.ndim == 4:
            return decode_heatmaps(heatmaps, self.size_wh)
        raise ModelError(
            f"outputs {', '.join(outputs)} are none of: keypoints and scores, simcc_x and simcc_y, heatmaps"
        )


class DetectorNetwork(Network):
    """Letterboxed pictures to boxes of people: outputs boxes and scores. Who they are tells app.suppression."""

    task = "detector"
    DEFAULT_MIN_SCORE = 0.3

    @property
    def min_score(self) -> float:
        """The card's recommended threshold, 0..1."""
        return float(self.card.get("min_score", self.DEFAULT_MIN_SCORE))

    def warm(self) -> None:
        """Run each batch size once and check what comes out. Raises StartError."""
        outputs = self.engine.warm(self._shape)
        shapes = {name: value.shape[1:] for name, value in outputs.items()}
        boxes, scores = shapes.get("boxes", ()), shapes.get("scores", ())
        if len(boxes) != 2 or boxes[1] != 4 or len(scores) != 1 or boxes[0] != scores[0]:
            raise StartError(
                f"{self.engine.path}: a detector gives boxes (N, K, 4) and scores (N, K), this one {shapes}"
            )

    def run(self, canvases: list[Image]) -> list[Boxes]:
        """The boxes in each letterboxed picture, without those that are not finite. Raises ModelError."""
        outputs = self.outputs(canvases)
        return [_finite(*pair) for pair in zip(outputs["boxes"], outputs["scores"], strict=True)]


def _finite(boxes: NDArray[Any], scores: NDArray[Any]) -> Boxes:
    good = np.isfinite(boxes).all(-1) & np.isfinite(scores)
    return Boxes(boxes[good].astype(np.float32), scores[good].astype(np.float32).clip(0, 1))


def decode_heatmaps(heatmaps: NDArray[Any], size_wh: tuple[int, int]) -> tuple[Floats, Floats]:
    """Keypoints (N, K, 2) in input pixels and peak values (N, K) of `heatmaps` (N, K, h, w) over an input of `size_wh`.

    The peak, moved by the vertex of a parabola through it and its neighbours on each axis (at most half a cell).
    """
    count, points, height, width = heatmaps.shape
    flat = heatmaps.reshape(count, points, -1).astype(np.float32)  # (N, K, h*w)
    peak = flat.argmax(-1)
    scores = np.take_along_axis(flat, peak[..., None], -1)[..., 0]
    rows, columns = np.divmod(peak, width)
    padded = np.pad(heatmaps.astype(np.float32), ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    n, k = np.ogrid[:count, :points]
    around_x = [padded[n, k, rows + 1, columns + step] for step in (0, 1, 2)]
    around_y = [padded[n, k, rows + step, columns + 1] for step in (0, 1, 2)]
    cells = np.stack([columns + vertex(*around_x), rows + vertex(*around_y)], -1) + 0.5  # cell centres
    stride = np.array(size_wh, np.float32) / (width, height)
    return (cells * stride).astype(np.float32), scores


def decode_simcc(x: NDArray[Any], y: NDArray[Any], size_wh: tuple[int, int]) -> tuple[Floats, Floats]:
    """Keypoints (N, K, 2) in input pixels and scores (N, K) of two distributions (N, K, bins) per keypoint.

    As RTMPose writes them (Jiang et al., 2023): bin b stands for b / split pixels, counted between pixel centres, with
    split = bins / side. The score is the lower of the two peaks.
    """
    split = np.array([x.shape[-1] / size_wh[0], y.shape[-1] / size_wh[1]], np.float32)
    bins = np.stack([x.argmax(-1), y.argmax(-1)], -1)
    scores = np.minimum(x.max(-1), y.max(-1)).astype(np.float32)
    return (bins / split + 0.5).astype(np.float32), scores


def vertex(before: Floats, at: Floats, after: Floats) -> Floats:
    """Where, relative to the middle one of three equidistant values, the parabola through them peaks: -0.5..0.5."""
    curvature = before - 2 * at + after
    with np.errstate(divide="ignore", invalid="ignore"):
        shift = np.where(curvature < 0, 0.5 * (before - after) / curvature, 0.0)
    return np.asarray(shift.clip(-0.5, 0.5), np.float32)
