"""A box head's way from a finished student to the deployed file, through the command line, on drawn people."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from commandline import TINY_RECIPE, okdhp
from drawn import write_folder
from small_runs import POSE
from typer.testing import CliRunner

from app.cli import app
from training.checkpoint import load_checkpoint
from training.config import Stage
from training.evaluate import load_network
from training.teacher import load_teacher

WEIGHTS = Path(__file__).parents[2] / "weights"
# About where the drawn people are in a letterboxed picture, and once where nobody is.
PLACES = [(10.0, 15.0, 40.0, 66.0), (50.0, 20.0, 80.0, 76.0), (22.0, 8.0, 44.0, 50.0), (60.0, 60.0, 80.0, 90.0)]


@pytest.fixture(scope="module")
def mended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with people, a detector.onnx, pose/last.pt, and boxed.pt and boxed.onnx that came of them."""
    folder = tmp_path_factory.mktemp("mended")
    data = write_folder(folder / "people", 60)
    (folder / "pose.toml").write_text(TINY_RECIPE.replace("TASK", "pose").replace("KEPT", "a"))
    okdhp("train", folder / "pose.toml", "--data", data, "--out", folder / "pose", "--amp", "off")
    okdhp("export", folder / "pose" / "last.pt", folder / "pose.onnx")
    tiny.make_fixed_detector(folder / "detector.onnx", 96, PLACES)
    arguments = (folder / "pose" / "last.pt", folder / "detector.onnx", folder / "boxed.pt", "--data", data)
    okdhp("train-boxes", *arguments, "--steps", "60")
    okdhp("export", folder / "boxed.pt", folder / "boxed.onnx", "--data", data)
    return folder


def test_people_held_out_get_better_boxes(mended: Path) -> None:
    noted = load_checkpoint(mended / "boxed.pt")["box_head"]
    assert (noted["branch"], tuple(noted["size_hw"]), noted["steps"]) == ("a", (96, 96), 60)
    held_out = noted["held_out"]
    assert held_out["iou_given"] < 0.9 and held_out["iou_mended"] > held_out["iou_given"] + 0.05
    card: dict[str, Any] = json.loads((mended / "boxed.json").read_text())
    assert card["box_head"]["held_out"] == held_out


def test_the_deployed_file_answers_boxes_beside_the_same_poses(mended: Path) -> None:
    crops = [np.random.default_rng(seed).integers(0, 255, (96, 96, 3), dtype=np.uint8) for seed in range(3)]
    keypoints, scores, boxes, fit = load_network(mended / "boxed.onnx").run(crops)
    before, _ = load_network(mended / "pose.onnx").run(crops)
    apart = np.abs(keypoints - before).max(-1)  # its weights were halved once: peaks as high as another change places
    assert (apart < 0.1).mean() > 0.95
    assert scores.shape == (3, 17) and boxes.shape == (3, 4) and fit.shape == (3,)
    assert ((fit > 0) & (fit < 1)).all()


def test_training_may_go_on_from_it_and_a_new_head_replaces_the_old(mended: Path, tmp_path: Path) -> None:
    data = mended / "people"
    okdhp(
        "train",
        mended / "pose.toml",
        "--data",
        data,
        "--out",
        tmp_path / "on",
        "--init",
        mended / "boxed.pt",
        "--amp",
        "off",
    )
    assert "box_head" not in load_checkpoint(tmp_path / "on" / "last.pt")  # the decoder is another one now
    arguments = (mended / "boxed.pt", mended / "detector.onnx", tmp_path / "again.pt", "--data", data)
    okdhp("train-boxes", *arguments, "--steps", "20")
    old, new = (load_checkpoint(path)["ema"] for path in (mended / "boxed.pt", tmp_path / "again.pt"))
    assert old.keys() == new.keys()
    same = {name for name in old if torch.equal(old[name], new[name])}
    assert {name for name in old if ".box_head." not in name} <= same
    assert "branches.a.box_head.answer.weight" not in same


def test_it_teaches_others_whatever_size_they_see(mended: Path) -> None:
    student = dataclasses.replace(POSE, distillation="teacher", fau="mean", stages=(Stage(1, 64, 64, batch=4),))
    teacher = load_teacher(mended / "boxed.pt", student, torch.device("cpu"))
    assert teacher.heatmaps(torch.zeros(1, 3, 64, 64)).shape == (1, 17, 8, 8)


def test_it_is_exported_at_its_own_size_alone(mended: Path, tmp_path: Path) -> None:
    arguments = ["export", str(mended / "boxed.pt"), str(tmp_path / "x.onnx"), "--size", "64x96"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2 and "its box head sees crops of 96x96, not of 64x96" in result.output.replace("\n", "")


@pytest.mark.parametrize(
    ("checkpoint", "out", "complaint"),
    [
        ("pose/last.pt", "pose/last.pt", "the result needs a name of its own"),
        (WEIGHTS / "detector.pt", "x.pt", "a box head needs a pose student; the network is student, its task detector"),
        ("people/train.json", "x.pt", "not a readable checkpoint"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(mended: Path, checkpoint: str | Path, out: str, complaint: str) -> None:
    data = str(mended / "people")
    places = [str(mended / path) for path in (checkpoint, "detector.onnx", out)]
    result = CliRunner().invoke(app, ["train-boxes", *places, "--data", data])
    assert result.exit_code == 2 and complaint in result.output.replace("\n", "")
    assert not (mended / "x.pt").exists()
