"""The exported files say what torch says, in pixels and scores, for one picture and for many."""

import copy
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from exported import CONFIG, PIXELS, SCORES, both, crops, lived_in
from scipy.optimize import linear_sum_assignment

from app.digest import sha256
from app.skeleton import OKS_SIGMAS
from model.decode import CELLS
from model.export import Calibration, DeployedDetector, DeployedPose, cost, deploy, export_onnx
from model.okdhp import OKDHP
from model.outputs import BranchOutput
from model.student import DecoderConfig, DetectorBranch, Encoder, PoseBranch

WEIGHTS = Path(__file__).parents[2] / "weights"
TO_STRIDE_4 = (
    DecoderConfig((16, 16, 16)),
    DecoderConfig((16, 16), shuffle=2),
    DecoderConfig((16, 12), shuffle=2, features=24),
)


def pose_model(decoder: DecoderConfig = TO_STRIDE_4[0]) -> OKDHP:
    return lived_in(OKDHP(Encoder(CONFIG), {"a": PoseBranch(decoder, CONFIG)}, 17))


def detector_model() -> OKDHP:
    model = lived_in(OKDHP(Encoder(CONFIG), {"a": DetectorBranch(DecoderConfig((16, 16)), CONFIG, tower=1)}, 1))
    torch.nn.init.normal_(model.branches["a"].centre.weight, std=0.004, generator=torch.Generator().manual_seed(0))
    return model


@pytest.mark.parametrize("decoder", TO_STRIDE_4, ids=["convolutions", "shuffle", "features"])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_exported_pose_equals_torch(tmp_path: Path, count: int, decoder: DecoderConfig) -> None:
    deployed = deploy(pose_model(decoder), "a", "pose", OKS_SIGMAS, Calibration(half=0.1, slope=2.0))
    export_onnx(deployed, (128, 96), tmp_path / "pose.onnx")
    (keypoints, scores), (expected, expected_scores) = both(deployed, tmp_path / "pose.onnx", crops(count, (128, 96)))
    assert keypoints.shape == (count, 17, 2)
    np.testing.assert_allclose(keypoints, expected, atol=PIXELS)
    np.testing.assert_allclose(scores, expected_scores, atol=SCORES)


@pytest.mark.parametrize("count", [1, 3])
def test_exported_detector_equals_torch(tmp_path: Path, count: int) -> None:
    deployed = deploy(detector_model(), "a", "detector")
    export_onnx(deployed, (160, 160), tmp_path / "detector.onnx")
    (boxes, scores), (expected, expected_scores) = both(deployed, tmp_path / "detector.onnx", crops(count, (160, 160)))
    assert boxes.shape == (count, CELLS, 4)
    assert (np.diff(scores, axis=1) <= 0).all()
    np.testing.assert_allclose(scores, expected_scores, atol=SCORES)
    for ours, theirs, certain in zip(boxes, expected, expected_scores > 0, strict=True):
        # Equal scores come in any order: each box is compared with the one that is its own.
        distances = np.abs(ours[certain][:, None] - theirs[certain][None]).max(2)
        rows, columns = linear_sum_assignment(distances)
        np.testing.assert_allclose(ours[certain][rows], theirs[certain][columns], rtol=1e-3, atol=PIXELS)


@pytest.mark.parametrize("task", ["pose", "detector"])
def test_deployed_graph_equals_the_branch_it_was_made_of(task: str) -> None:
    model = pose_model() if task == "pose" else detector_model()
    network = copy.deepcopy(model).deployed("a")
    whole = DeployedPose(network, OKS_SIGMAS) if task == "pose" else DeployedDetector(network)
    deployed = deploy(model, "a", task, OKS_SIGMAS)
    pictures = torch.from_numpy(crops(2, (128, 128)))
    with torch.no_grad():
        for ours, expected in zip(deployed(pictures), whole(pictures), strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-2)


def test_exported_file_is_self_contained_and_plain(tmp_path: Path) -> None:
    path = tmp_path / "pose.onnx"
    export_onnx(deploy(pose_model(), "a", "pose", OKS_SIGMAS), (128, 96), path)
    model = onnx.load(path)
    assert [f.name for f in tmp_path.iterdir()] == ["pose.onnx"]
    assert not any(node.op_type == "BatchNormalization" for node in model.graph.node)
    (entry,) = model.graph.input
    sides = [d.dim_param or d.dim_value for d in entry.type.tensor_type.shape.dim]
    assert sides == ["batch", 128, 96, 3]
    assert entry.type.tensor_type.elem_type == onnx.TensorProto.UINT8


def test_weights_of_half_precision_take_two_bytes_each_and_answer_alike(tmp_path: Path) -> None:
    deployed = deploy(pose_model(), "a", "pose", OKS_SIGMAS)
    for name, half in (("full", False), ("half", True)):
        export_onnx(deployed, (128, 96), tmp_path / f"{name}.onnx", half)
    full, half = (tmp_path / f"{name}.onnx" for name in ("full", "half"))
    parameters = sum(parameter.numel() for parameter in deployed.parameters())
    assert full.stat().st_size - half.stat().st_size > 0.9 * 2 * parameters
    (keypoints, scores), (expected, expected_scores) = both(deployed, half, crops(2, (128, 96)))
    np.testing.assert_allclose(scores, expected_scores, atol=0.01)
    certain = expected_scores > 0.1
    np.testing.assert_allclose(keypoints[certain], expected[certain], atol=1.0)


class FixedNetwork(torch.nn.Module):
    """Whatever it is shown: something in rows 10 and 11 and columns 4 and 5, and boxes of one cell at each cell."""

    def __init__(self, maps: int) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, maps, 4, stride=4)

    def forward(self, images: torch.Tensor) -> BranchOutput:
        found = 0 * self.conv(images).detach()
        boxes = found[:, :1].expand(-1, 4, -1, -1).clone()
        found[:, :, 10:12, 4:6] = 1.0
        return BranchOutput(found, boxes=boxes)


def test_boxes_of_a_wide_picture_are_where_its_cells_are() -> None:
    boxes, _ = DeployedDetector(FixedNetwork(1))(torch.zeros(1, 24, 40, 3, dtype=torch.uint8))
    x, y = np.meshgrid(np.arange(10) * 4.0, np.arange(6) * 4.0)
    expected = np.stack([x, y, x + 4, y + 4], 2).reshape(-1, 4)
    assert sorted(boxes[0].tolist()) == sorted(expected.tolist())


def test_a_keypoint_of_a_narrow_crop_is_where_its_cell_is() -> None:
    keypoints, _ = DeployedPose(FixedNetwork(17), OKS_SIGMAS)(torch.zeros(1, 64, 48, 3, dtype=torch.uint8))
    np.testing.assert_allclose(keypoints[0].numpy(), np.tile([20.0, 44.0], (17, 1)), atol=0.05)


def test_the_cost_of_a_convolution_is_its_kernel_s_at_each_place() -> None:
    found = cost(DeployedDetector(FixedNetwork(1)), (1024, 1024))
    assert found == {"gmacs": round(4 * 4 * 3 * 256 * 256 / 1e9, 4), "parameters": 4 * 4 * 3 + 1}


def test_cost_counts_multiply_adds_and_parameters() -> None:
    deployed = deploy(detector_model(), "a", "detector")  # convolutions alone: a pose graph's decoding grows otherwise
    small, large = cost(deployed, (128, 128)), cost(deployed, (512, 512))
    assert large["gmacs"] == pytest.approx(16 * small["gmacs"], rel=0.01)
    assert small["parameters"] == sum(p.numel() for p in deployed.parameters())


@pytest.mark.parametrize("name", ["pose", "detector", "pose-int8", "detector-int8", "pose-large"])
def test_bundled_file_is_the_one_its_card_describes(name: str) -> None:
    card = json.loads((WEIGHTS / f"{name}.json").read_text())
    path = WEIGHTS / card["file"]
    assert sha256(path) == card["sha256"]
    (entry,) = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).get_inputs()
    assert entry.shape[1:] == [card["input"]["height"], card["input"]["width"], 3]
    assert card["task"] == name.split("-")[0]
    assert ("precision" in card) == ("-" in name)
    assert {"recipe", "trained", "scores", "gmacs", "parameters", "date", "data"} <= set(card)


def test_an_exported_file_does_not_name_the_files_of_the_machine_that_made_it(tmp_path: Path) -> None:
    export_onnx(deploy(detector_model(), "a", "detector"), (64, 64), tmp_path / "detector.onnx")
    root = str(Path(__file__).parents[2]).encode()
    for path in (tmp_path / "detector.onnx", *WEIGHTS.glob("*.onnx")):
        content = path.read_bytes()
        assert root not in content and b"stack_trace" not in content


def test_a_pose_network_is_not_deployed_without_its_keypoints_sigmas() -> None:
    with pytest.raises(ValueError, match="17 keypoints needs as many sigmas, got 0"):
        deploy(pose_model(), "a", "pose")
