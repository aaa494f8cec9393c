"""Small ONNX networks with a known answer: fast, deterministic, and seen to be right by eye.

The detector finds the bright things in the left and in the right half of its input. The pose network puts the nose at
the middle of what is bright in the crop, and every other keypoint at a fixed place of it.
"""

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

DETECTOR_SIDE = 64
CROP_WH = (48, 64)
BRIGHT = 200
DETECTOR_SCORE, POSE_SCORE, FIT = 0.9, 0.8, 0.5
FRACTIONS = np.stack([np.linspace(0.1, 0.9, 17), np.linspace(0.9, 0.1, 17)], -1).astype(np.float32)  # (17, 2)


class Graph:
    """Collects nodes; `graph("Op", inputs...)` returns the name of the output."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def __call__(self, op: str, *inputs: object, name: str | None = None, **attributes: object) -> str:
        names = [value if isinstance(value, str) else self.constant(value) for value in inputs]
        output = name or f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, names, [output], **attributes))
        return output

    def constant(self, value: object) -> str:
        array = np.asarray(value)
        array = array.astype({"f": np.float32, "i": np.int64, "b": np.bool_}[array.dtype.kind])
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def save(self, path: Path, source: onnx.ValueInfoProto, outputs: list[tuple[str, list[object]]]) -> Path:
        targets = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs]
        graph = helper.make_graph(self.nodes, path.stem, [source], targets, self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        onnx.checker.check_model(model)
        onnx.save(model, path)
        return path


def bytes_input(name: str, width: int, height: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.UINT8, ["N", height, width, 3])


def floats_input(name: str, width: int, height: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3, height, width])


def bright(graph: Graph, source: str) -> str:
    """(N, H, W) of 1.0 where the picture is bright, else 0.0."""
    level = graph("ReduceMean", graph("Cast", source, to=TensorProto.FLOAT), [3], keepdims=0)
    return graph("Cast", graph("Greater", level, float(BRIGHT)), to=TensorProto.FLOAT)


def extent(graph: Graph, mask: str, axis: int, positions: NDArray[np.float32]) -> tuple[str, str]:
    """(N, 1) first and last edge of what is bright along the axis that stays; `axis` is the one to look through."""
    profile = graph("Greater", graph("ReduceMax", mask, [axis], keepdims=0), 0.5)
    first = graph("ReduceMin", graph("Where", profile, positions, 1e4), [1], keepdims=1)
    last = graph("ReduceMax", graph("Where", profile, positions + 1, 0.0), [1], keepdims=1)
    return first, last


def make_detector(path: Path, side: int = DETECTOR_SIDE) -> Path:
    graph = Graph()
    everything = bright(graph, "images")
    across = np.arange(side, dtype=np.float32)
    boxes, scores = [], []
    for half in (across < side / 2, across >= side / 2):
        mask = graph("Mul", everything, half.astype(np.float32))
        (x1, x2), (y1, y2) = extent(graph, mask, 1, across), extent(graph, mask, 2, across)
        boxes.append(graph("Unsqueeze", graph("Concat", x1, y1, x2, y2, axis=1), [1]))  # (N, 1, 4)
        found = graph("ReduceMax", mask, [1, 2], keepdims=0)  # (N,)
        scores.append(graph("Unsqueeze", graph("Mul", found, DETECTOR_SCORE), [1]))  # (N, 1)
    graph("Concat", *boxes, axis=1, name="boxes")
    graph("Concat", *scores, axis=1, name="scores")
    return graph.save(path, bytes_input("images", side, side), [("boxes", ["N", 2, 4]), ("scores", ["N", 2])])


def make_fixed_detector(path: Path, side: int, boxes: list[tuple[float, ...]], score: float = DETECTOR_SCORE) -> Path:
    """Finds the same `boxes`, in pixels of its input, in every picture."""
    graph = Graph()
    none = graph("Mul", graph("ReduceSum", bright(graph, "images"), [1, 2], keepdims=0), 0.0)  # (N,)
    graph("Add", graph("Unsqueeze", none, [1]), np.full((1, len(boxes)), score, np.float32), name="scores")
    graph("Add", graph("Unsqueeze", none, [1, 2]), np.float32([boxes]), name="boxes")
    shapes: list[tuple[str, list[object]]] = [("boxes", ["N", len(boxes), 4]), ("scores", ["N", len(boxes)])]
    return graph.save(path, bytes_input("images", side, side), shapes)


def make_pose(
    path: Path,
    size_wh: tuple[int, int] = CROP_WH,
    score: float = POSE_SCORE,
    mends: bool = False,
    corners: int = 4,
) -> Path:
    """mends: with a box head, that sees the box around what is bright; of it come `corners` numbers."""
    graph = Graph()
    width, height = size_wh
    mask = bright(graph, "crops")
    total = graph("Max", graph("ReduceSum", mask, [1, 2], keepdims=0), 1.0)  # (N,)
    nose = []
    for axis, length in ((1, width), (2, height)):
        profile = graph("ReduceSum", mask, [axis], keepdims=0)  # (N, length)
        weighted = graph("Mul", profile, np.arange(length, dtype=np.float32) + 0.5)
        middle = graph("Div", graph("ReduceSum", weighted, [1], keepdims=0), total)
        nose.append(graph("Unsqueeze", middle, [1, 2]))  # (N, 1, 1)
    at = graph("Concat", *nose, axis=2)  # (N, 1, 2)
    others = graph("Add", graph("Mul", at, 0.0), (FRACTIONS[1:] * np.float32([width, height]))[None])  # (N, 16, 2)
    keypoints = graph("Concat", at, others, axis=1, name="keypoints")
    graph("Add", graph("Mul", graph("ReduceMax", keypoints, [2], keepdims=0), 0.0), score, name="scores")
    outputs: list[tuple[str, list[object]]] = [("keypoints", ["N", 17, 2]), ("scores", ["N", 17])]
    if mends:
        (x1, x2), (y1, y2) = (
            extent(graph, mask, axis, np.arange(n, dtype=np.float32)) for axis, n in enumerate((width, height), 1)
        )
        graph("Concat", *(x1, y1, x2, y2)[:corners], axis=1, name="boxes")
        graph("Add", graph("Mul", total, 0.0), FIT, name="fit")
        outputs += [("boxes", ["N", corners]), ("fit", ["N"])]
    return graph.save(path, bytes_input("crops", width, height), outputs)


def grey_of_floats(graph: Graph, mean: float, std: float) -> str:
    """(N, 1, H, W) in 0..1 of a normalised input: the network undoes what the service did, so both must agree."""
    level = graph("ReduceMean", "input", [1], keepdims=1)
    return graph("Mul", graph("Add", graph("Mul", level, std), mean), 1 / 255)


def make_simcc(path: Path, size_wh: tuple[int, int] = CROP_WH, mean: float = 0.0, std: float = 1.0) -> Path:
    """As RTMPose's files look: normalised float input, two bins a pixel."""
    graph = Graph()
    width, height = size_wh
    grey = grey_of_floats(graph, mean, std)
    for name, axis, length in (("simcc_x", 2, width), ("simcc_y", 3, height)):
        profile = graph("ReduceMax", grey, [axis], keepdims=0)  # (N, 1, length)
        doubled = graph("Mul", graph("Unsqueeze", profile, [3]), np.float32([1.0, 0.5]))  # (N, 1, length, 2)
        bins = graph("Reshape", doubled, [0, 1, 2 * length])
        graph("Mul", bins, np.ones((1, 17, 1), np.float32), name=name)
    outputs: list[tuple[str, list[object]]] = [("simcc_x", ["N", 17, 2 * width]), ("simcc_y", ["N", 17, 2 * height])]
    return graph.save(path, floats_input("input", width, height), outputs)


def make_heatmap(path: Path, size_wh: tuple[int, int] = CROP_WH, points: int = 17) -> Path:
    graph = Graph()
    width, height = size_wh
    pooled = graph("AveragePool", grey_of_floats(graph, 0.0, 1.0), kernel_shape=[4, 4], strides=[4, 4])
    graph("Mul", pooled, np.ones((1, points, 1, 1), np.float32), name="heatmaps")
    return graph.save(
        path, floats_input("input", width, height), [("heatmaps", ["N", points, height // 4, width // 4])]
    )
