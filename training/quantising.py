"""`okdhp quantize`: a deployed network in 8-bit integers, for CPUs that have instructions for them."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from app.digest import sha256
from app.models import read_card
from training.data import Dataset
from training.datasets import load_dataset
from training.evaluate import letterboxed, load_network, person_crop
from training.exporting import check_ending, scores_of
from training.pictures import DataError
from training.together import put_together

QUANTISED = ["Conv", "Relu", "Add", "Resize"]


def run_quantise(path: Path, out: Path, data: Path, pictures: int) -> dict[str, Any]:
    """Write the ONNX file `path` to `out` with integer convolutions, and its card scored on `data`'s val; returns it.

    Static quantisation in QDQ form, ranges taken from `pictures` of `data`'s train. Weights have 7 bits: with 8 the
    products overflow on CPUs without VNNI. The last convolutions stay in floating point, and decoding after them.
    Raises DataError for a file without a card, one that would be written over, and one that has integers already.
    """
    check_ending(out)
    if out.with_suffix("").resolve() == path.with_suffix("").resolve():
        raise DataError(
            f"{out}: is called as the file to quantize; the integers and their card need a name of their own"
        )
    card = read_card(path)
    if "task" not in card:
        raise DataError(f"{path}: has no model card that names its task; okdhp export writes one")
    size_wh = load_network(path, card["task"]).size_wh  # before the pictures, which take their time
    if any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in onnx.load(str(path)).graph.node):
        raise DataError(f"{path}: has integer convolutions already; quantize the file that it was made of")
    val, train = load_dataset(data, "val"), load_dataset(data, "train", limit=pictures)
    with put_together(out.parent) as folder:
        draft = folder / out.name
        _quantise(path, draft, inputs(card["task"], train, size_wh))
        card |= {
            "file": out.name,
            "sha256": sha256(draft),
            "precision": f"int8 (QDQ), from {len(train.pictures)} pictures of train",
            "scores": scores_of(draft, card["task"], val),
        }
        draft.with_suffix(".json").write_text(json.dumps(card, indent=1) + "\n")
    return card


def _quantise(path: Path, out: Path, pictures: Iterator[np.ndarray]) -> None:
    """Raises DataError for what the quantiser cannot do."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            prepared = Path(folder) / "prepared.onnx"
            quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
            graph = onnx.load(str(prepared))
            quantize_static(
                str(prepared),
                str(out),
                Inputs(graph.graph.input[0].name, pictures),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=QUANTISED,
                nodes_to_exclude=after_the_features(graph),
                per_channel=True,
                reduce_range=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
            )
    except (DataError, OSError):
        raise
    except Exception as error:  # ONNX Runtime's errors have no common type
        raise DataError(f"{path}: cannot be quantized: {str(error).splitlines()[0]}") from error


def inputs(task: str, dataset: Dataset, size_wh: tuple[int, int]) -> Iterator[np.ndarray]:
    """Everyone in `dataset` as a pose network sees them, or every picture as a detector does: (H, W, 3) uint8."""
    if task == "pose":
        return (person_crop(dataset, dataset.people, row, size_wh)[0] for row in range(len(dataset.people)))
    pictures = dataset.pictures
    return (letterboxed(pictures.picture(index), size_wh)[0] for index in range(len(pictures)))


class Inputs(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime is untyped
    """Network inputs (H, W, 3) one by one, as the quantiser wants them."""

    def __init__(self, name: str, pictures: Iterator[np.ndarray]) -> None:
        self.feeds = ({name: picture[None]} for picture in pictures)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.feeds, None)


def after_the_features(model: ModelProto) -> list[str]:
    """Names of the nodes that no convolution comes after: the heads and what decodes them."""
    makers = {name: node for node in model.graph.node for name in node.output}
    before: set[str] = set()
    waiting = [name for node in model.graph.node if node.op_type == "Conv" for name in node.input]
    while waiting:
        node = makers.get(waiting.pop())
        if node is not None and node.name not in before:
            before.add(node.name)
            waiting += node.input
    return [node.name for node in model.graph.node if node.name not in before]
