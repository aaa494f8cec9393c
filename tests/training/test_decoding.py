"""The flip test, and the decodings that only evaluation has."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from app.skeleton import FLIP_INDEX
from model.okdhp import Outputs, ensemble
from model.outputs import BranchOutput
from training.augment import crop_matrices, transform_points
from training.datasets import load_dataset
from training.decoding import DECODINGS, FlipTested, decode_dark, decode_heatmaps, flip_back, smooth
from training.joints import COCO, MPII
from training.pose_task import predict, score
from training.targets import keypoint_heatmaps

SIZE, STRIDE = (64, 48), 4.0


class Anything(nn.Module):
    """Two branches of random convolutions, each with its own idea, and weights that depend on the picture."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.heads = nn.ModuleDict({name: nn.Conv2d(3, 17, 8, 4, 2) for name in ("a", "b")})

    def forward(self, images: Tensor) -> Outputs:
        branches = {name: BranchOutput(head(images)) for name, head in self.heads.items()}
        weights = images.mean((2, 3))[:, :2].softmax(1)[:, :, None].expand(-1, -1, 17)
        return Outputs((), branches, weights, ensemble(branches, weights))


def finals(outputs: Outputs) -> dict[str, Tensor]:
    return {name: branch.final for name, branch in outputs.branches.items()} | {"ensemble": outputs.ensemble}


@torch.no_grad()
def test_flip_test_of_a_mirrored_picture_is_the_mirrored_flip_test() -> None:
    """True of any network whatever, but only if left and right and both ends of a row change places exactly."""
    tested = FlipTested(Anything(), FLIP_INDEX)
    images = torch.rand(2, 3, *SIZE)
    straight, mirrored = finals(tested(images)), finals(tested(images.flip(3)))
    assert straight.keys() == {"a", "b", "ensemble"}
    for name, heatmaps in straight.items():
        torch.testing.assert_close(flip_back(mirrored[name], FLIP_INDEX), heatmaps)
        assert not torch.allclose(heatmaps, finals(tested.model(images))[name])


@torch.no_grad()
def test_flip_test_is_the_mean_of_both_looks() -> None:
    tested, images = FlipTested(Anything(), FLIP_INDEX), torch.rand(1, 3, *SIZE)
    look, other = (finals(tested.model(view))["a"] for view in (images, images.flip(3)))
    found = finals(tested(images))["a"]
    nose, left_eye, right_eye = 0, 1, 2
    assert found[0, nose, 3, 2] == pytest.approx(float(look[0, nose, 3, 2] + other[0, nose, 3, -3]) / 2)
    assert found[0, left_eye, 5, 0] == pytest.approx(float(look[0, left_eye, 5, 0] + other[0, right_eye, 5, -1]) / 2)


@pytest.mark.parametrize("flip_index", [FLIP_INDEX, MPII.flip_index])
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_heatmaps_of_mirrored_keypoints_flip_back_exactly(flip_index: tuple[int, ...], seed: int) -> None:
    """No pixel's shift is needed or left: the unbiased frame that UDP asks for."""
    K = len(flip_index)
    keypoints = torch.rand(1, K, 2, generator=torch.Generator().manual_seed(seed)) * torch.tensor([48.0, 64.0])
    mirrored = torch.stack([48 - keypoints[..., 0], keypoints[..., 1]], 2)[:, list(flip_index)]
    present = torch.ones(1, K, dtype=torch.bool)
    expected, seen = (keypoint_heatmaps(points, present, SIZE, 4, 1.5) for points in (keypoints, mirrored))
    torch.testing.assert_close(flip_back(seen, flip_index), expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(flip_back(flip_back(seen, flip_index), flip_index), seen)


def slow_dark(heatmap: np.ndarray, kernel: int) -> np.ndarray:
    """One heatmap (H, W) -> x, y in cells, by OpenCV's blur and a linear solve (DARK's equations 4 to 9)."""
    H, W = heatmap.shape
    y, x = np.unravel_index(heatmap.argmax(), heatmap.shape)
    padded = cv2.GaussianBlur(np.pad(heatmap, kernel), (kernel, kernel), 0)
    blurred = padded[kernel:-kernel, kernel:-kernel]
    logs = np.log(np.maximum(blurred * heatmap.max() / blurred.max(), 1e-10))
    place = np.array([x, y], dtype=np.float64)
    if 2 <= x < W - 2 and 2 <= y < H - 2:
        gradient = np.array([logs[y, x + 1] - logs[y, x - 1], logs[y + 1, x] - logs[y - 1, x]]) / 2
        dxx = (logs[y, x + 2] - 2 * logs[y, x] + logs[y, x - 2]) / 4
        dyy = (logs[y + 2, x] - 2 * logs[y, x] + logs[y - 2, x]) / 4
        dxy = (logs[y + 1, x + 1] - logs[y - 1, x + 1] - logs[y + 1, x - 1] + logs[y - 1, x - 1]) / 4
        place -= np.linalg.solve(np.array([[dxx, dxy], [dxy, dyy]]), gradient)
    return place + 0.5


def blobs(noise: float) -> tuple[Tensor, Tensor]:
    """Keypoints (1, 40, 2) anywhere in 64x48, borders too, and their heatmaps: turned ellipses with noise."""
    random = torch.Generator().manual_seed(0)
    keypoints = torch.rand(1, 40, 2, generator=random) * torch.tensor([48.0, 64.0])
    rows, columns = torch.arange(16)[:, None] + 0.5, torch.arange(12) + 0.5
    dx, dy = columns - keypoints[0, :, 0, None, None] / 4, rows - keypoints[0, :, 1, None, None] / 4
    heatmaps = torch.exp(-(dx**2 + dy**2 + 0.8 * dx * dy) / (2 * 2.0**2))
    return keypoints, (heatmaps + noise * torch.rand(40, 16, 12, generator=random))[None]


@pytest.mark.parametrize("kernel", [11, 17])
def test_dark_equals_its_slow_definition(kernel: int) -> None:
    _, heatmaps = blobs(noise=0.03)
    found, scores = decode_dark(heatmaps, 1.0, kernel)
    expected = np.stack([slow_dark(one, kernel) for one in heatmaps[0].double().numpy()])
    np.testing.assert_allclose(found[0].numpy(), expected, atol=1e-3)
    torch.testing.assert_close(scores, heatmaps.amax((2, 3)).clamp(0, 1))


def test_smoothing_is_opencvs_and_keeps_each_peaks_height() -> None:
    _, heatmaps = blobs(noise=0.2)
    found = smooth(heatmaps, 11)
    torch.testing.assert_close(found.amax((2, 3)), heatmaps.amax((2, 3)))
    expected = cv2.GaussianBlur(np.pad(heatmaps[0, 5].numpy(), 11), (11, 11), 0)[11:-11, 11:-11]
    np.testing.assert_allclose(found[0, 5] / found[0, 5].max(), expected / expected.max(), atol=1e-5)
    with pytest.raises(ValueError, match="odd number of cells, got 4"):
        smooth(heatmaps, 4)


def test_each_decoding_improves_on_the_coarser_one() -> None:
    """On clean blobs the parabola is exact along the axes, DARK on turned ones too; a quarter cell is neither."""
    keypoints, heatmaps = blobs(noise=0.0)
    inner = ((keypoints > 14) & (keypoints < torch.tensor([34.0, 50.0]))).all(2)
    errors = {
        name: (decode(heatmaps, STRIDE)[0] - keypoints)[inner].norm(dim=1).mean() for name, decode in DECODINGS.items()
    }
    sharp = decode_dark(heatmaps, STRIDE, kernel=1)[0]
    assert (sharp - keypoints)[inner].abs().max() < 0.01
    assert errors["parabola"] < errors["quarter"]
    assert errors["dark"] < errors["quarter"]
    assert DECODINGS["parabola"] is decode_heatmaps


@pytest.mark.parametrize("name", DECODINGS)
def test_any_map_gives_finite_keypoints_inside_and_scores_in_range(name: str) -> None:
    maps = (
        torch.zeros(1, 17, 8, 6),
        torch.full((1, 17, 8, 6), -3.0),
        torch.rand(1, 17, 8, 6),
        torch.randn(3, 5, 2, 1) * 9,
    )
    for heatmaps in maps:
        found, scores = DECODINGS[name](heatmaps, 4.0)
        assert found.isfinite().all()
        reach = torch.tensor([heatmaps.shape[3], heatmaps.shape[2]]) * 4.0
        assert ((found >= 0) & (found <= reach)).all()
        assert ((scores >= 0) & (scores <= 1)).all()


def test_flat_map_is_read_at_its_peak_and_not_far_off() -> None:
    """The authors' code divides by a determinant of almost nothing here."""
    heatmaps = torch.full((1, 1, 9, 9), 0.5)
    heatmaps[0, 0, 4, 4] += 1e-4
    found, _ = decode_dark(heatmaps, 1.0, kernel=1)
    assert (found - 4.5).abs().max() < 0.5


class Knows(nn.Module):
    """Draws the heatmaps of known keypoints for pictures in order, one crop a call; blind to what it is shown."""

    def __init__(self, keypoints: Tensor) -> None:
        super().__init__()
        self.keypoints = keypoints

    def forward(self, images: Tensor) -> Outputs:
        present = torch.ones(self.keypoints.shape[:2], dtype=torch.bool)
        branch = BranchOutput(keypoint_heatmaps(self.keypoints, present, tuple(images.shape[2:]), 4, 2.0))  # type: ignore[arg-type]
        return Outputs((), {"a": branch}, torch.ones(len(images), 1, 17), branch.final)


def test_prediction_takes_any_decoding(drawn_folder: Path) -> None:
    dataset = load_dataset(drawn_folder, "val")
    points = transform_points(dataset.people.keypoints, crop_matrices(dataset.people.boxes, (128, 96)))
    errors = {}
    for name, decode in DECODINGS.items():
        found = predict(Knows(points), dataset.pictures, dataset.people, (128, 96), decode)["a"][0]
        assert score(found, dataset.people, COCO) > 0.99
        errors[name] = np.linalg.norm(found - dataset.people.keypoints.numpy(), axis=2).mean()
    assert errors["quarter"] > 2 * max(errors["parabola"], errors["dark"])
