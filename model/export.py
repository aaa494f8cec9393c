"""Self-contained ONNX files: uint8 pictures in, keypoints or boxes out, normalisation and decoding in the graph."""

import logging
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import GraphProto, TensorProto
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from model.box_head import BoxHead
from model.decode import TEMPERATURE, decode_expected, surest_cells
from model.layers import fuse
from model.okdhp import OKDHP
from model.student import Encoder, OwnEncoder, PoseBranch

OPSET = 18
LARGE = 1024  # numbers; smaller tensors are not worth a cast
FAINTEST = 1e-4  # expectations below this have no logarithm to speak of


@dataclass(frozen=True)
class Calibration:
    """From an expected similarity e to the chance of being right: e^slope / (e^slope + half^slope), even at `half`.

    A logistic function of its logarithm: where nothing is expected there is no chance.
    """

    half: float
    slope: float

    def __call__(self, expected: Tensor) -> Tensor:
        """Expectations (...) in 0..1 to scores (...) in 0..1."""
        return torch.sigmoid(self.slope * (expected.clamp_min(FAINTEST).log() - math.log(self.half)))


class DeployedPose(nn.Module):
    """crops (N, H, W, 3) uint8 RGB -> keypoints (N, K, 2) x, y in crop pixels, scores (N, K) in 0..1.

    Of a branch with a box head also boxes (N, 4) xyxy in crop pixels and fit (N,) in 0..1; see model.outputs.Region.
    sigmas (K,), shuffle, temperature: see `decode_expected`. Without a `calibration` the scores are what it expects.
    """

    inputs = "crops"

    def __init__(
        self,
        network: nn.Module,
        sigmas: Sequence[float],
        calibration: Calibration | None = None,
        shuffle: int = 1,
        temperature: float = TEMPERATURE,
    ) -> None:
        super().__init__()
        self.network, self.sigmas, self.calibration = network, tuple(sigmas), calibration
        self.shuffle, self.temperature = shuffle, temperature
        corrects = any(isinstance(module, BoxHead) for module in network.modules())
        self.outputs = ("keypoints", "scores", "boxes", "fit") if corrects else ("keypoints", "scores")

    def forward(self, crops: Tensor) -> tuple[Tensor, ...]:
        found = self.network(crops.permute(0, 3, 1, 2).float())
        heatmaps, region = found.final, found.region
        stride = crops.shape[1] / (heatmaps.shape[2] * self.shuffle)
        keypoints, expected = decode_expected(heatmaps, stride, self.sigmas, self.shuffle, self.temperature)
        scores = self.calibration(expected) if self.calibration else expected
        if region is None:
            return keypoints, scores
        sides = region.boxes.new_tensor([crops.shape[2], crops.shape[1]] * 2)
        return keypoints, scores, region.boxes * sides, torch.sigmoid(region.fit)


class DeployedDetector(nn.Module):
    """images (N, H, W, 3) uint8 RGB, letterboxed -> cells' boxes (N, K, 4) xyxy in input pixels, scores, best first."""

    inputs, outputs = "images", ("boxes", "scores")

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        found = self.network(images.permute(0, 3, 1, 2).float())
        return surest_cells(found.final, found.boxes, images.shape[1] / found.final.shape[2])


Deployed = DeployedPose | DeployedDetector


def deploy(
    model: OKDHP, branch: str, task: str, sigmas: Sequence[float] = (), calibration: Calibration | None = None
) -> Deployed:
    """Trunk and one branch of `model` as the deployed graph, re-parameterised. Changes `model`: pass a copy.

    sigmas, calibration: a pose network's; see DeployedPose. Raises ValueError for one without a sigma a keypoint.
    """
    if task == "pose" and len(sigmas) != model.num_keypoints:
        raise ValueError(f"a pose network of {model.num_keypoints} keypoints needs as many sigmas, got {len(sigmas)}")
    network, shuffle, temperature = fuse(model.deployed(branch)), 1, TEMPERATURE
    own = any(isinstance(module, OwnEncoder) for module in network.modules())
    for module in network.modules():
        if isinstance(module, Encoder):
            module.fold_pixel_scale()
            if own:
                module.cut()
        if isinstance(module, PoseBranch):
            shuffle, temperature = module.leave_to_decoding(TEMPERATURE), 1.0
    if task == "pose":
        return DeployedPose(network, sigmas, calibration, shuffle, temperature).eval()
    return DeployedDetector(network).eval()


def export_onnx(deployed: Deployed, size_hw: tuple[int, int], path: Path, half: bool = False) -> None:
    """Write `deployed` for inputs (N, *size_hw, 3) uint8, N free, to `path`, checked before it is kept.

    half: weights lie in the file in half precision; see `store_half`.
    """
    example = torch.zeros(2, *size_hw, 3, dtype=torch.uint8)
    for name in ("torch.onnx", "onnxscript", "onnx_ir"):  # they report every pass over the graph
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's exporter deprecates parts of itself while it runs
        program = torch.onnx.export(
            deployed,
            (example,),
            input_names=[deployed.inputs],
            output_names=list(deployed.outputs),
            opset_version=OPSET,
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            verbose=False,
        )
    assert program is not None
    program.optimize()
    proto = program.model_proto
    forget_source(proto.graph)
    if half:
        store_half(proto.graph)
    onnx.checker.check_model(proto, full_check=True)
    path.write_bytes(proto.SerializeToString())


def store_half(graph: GraphProto) -> None:
    """Keep the large weights in half precision, each cast to float32 where it is used: half the file.

    ONNX Runtime does those casts once, when it opens the file; it computes in float32 as before.
    """
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or math.prod(tensor.dims) < LARGE:
            continue
        name, values = tensor.name, onnx.numpy_helper.to_array(tensor)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), f"{name}_half"))
        casts.append(onnx.helper.make_node("Cast", [tensor.name], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def forget_source(graph: GraphProto) -> None:
    """Leave out, in place, which line of which file each node comes from: paths of the machine that exported."""
    for node in graph.node:
        del node.metadata_props[:]


def cost(deployed: Deployed, size_hw: tuple[int, int]) -> dict[str, float]:
    """Multiply-adds in 1e9 and parameters of the deployed graph for one input."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        deployed(torch.zeros(1, *size_hw, 3, dtype=torch.uint8))
    parameters = sum(parameter.numel() for parameter in deployed.parameters())
    return {"gmacs": round(counter.get_total_flops() / 2e9, 4), "parameters": parameters}
