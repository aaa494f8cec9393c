"""The bundled student on real photographs; skipped where the clone stands alone."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from app.geometry import crop_matrix, warp
from app.skeleton import OKS_SIGMAS
from model.export import Calibration, deploy, export_onnx
from training.checkpoint import load_checkpoint
from training.data import Dataset
from training.datasets import load_dataset
from training.evaluate import load_network, measure_poses
from training.restore import restore

WEIGHTS = Path(__file__).parents[2] / "weights"
PIXELS, SCORES = 0.05, 1e-3  # how far ONNX Runtime's sums may differ from torch's


@pytest.fixture(scope="module")
def people(people_folder: Path) -> Dataset:
    return load_dataset(people_folder, "val", limit=200)


@pytest.mark.parametrize("name", ["pose", "pose-large"])
def test_a_bundled_network_reaches_about_what_its_card_says(people: Dataset, name: str) -> None:
    card = json.loads((WEIGHTS / f"{name}.json").read_text())
    found = measure_poses(load_network(WEIGHTS / f"{name}.onnx"), people)
    count, share = found.oks_table()["all"]
    assert count > 200
    assert share == pytest.approx(card["scores"]["oks_share/all"], abs=0.06)  # of a sample
    _, gap = found.reliability()
    assert gap < 0.1


@pytest.mark.parametrize("count", [1, 16])
def test_the_exported_student_equals_torch_on_photographs(people: Dataset, tmp_path: Path, count: int) -> None:
    card = json.loads((WEIGHTS / "pose.json").read_text())
    _, model = restore(load_checkpoint(WEIGHTS / "pose.pt"))
    deployed = deploy(model.eval(), card["branch"], "pose", OKS_SIGMAS, Calibration(**card["calibration"]))
    size_wh = (card["input"]["width"], card["input"]["height"])
    export_onnx(deployed, size_wh[::-1], tmp_path / "pose.onnx")
    crops = [
        warp(people.pictures.picture(int(picture)), crop_matrix(box.numpy(), size_wh), size_wh)
        for picture, box in zip(people.people.picture[:count], people.people.boxes[:count], strict=True)
    ]
    keypoints, scores, *_ = load_network(tmp_path / "pose.onnx").run(crops)
    with torch.no_grad():
        expected, expected_scores, *_ = deployed(torch.from_numpy(np.stack(crops)))
    np.testing.assert_allclose(scores, expected_scores, atol=SCORES)
    apart = np.abs(keypoints - expected.numpy()).max(-1)
    assert np.median(apart) < PIXELS
    assert (apart < PIXELS).mean() > 0.98  # two peaks as high as each other may change places
