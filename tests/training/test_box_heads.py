"""A box head's way from a recipe to the deployed file, through the command line, on drawn people."""

import dataclasses
import json
from pathlib import Path

import pytest
import tiny
import torch
from commandline import okdhp
from mending import PLACES, RECIPE, SIDE, overlaps
from small_runs import POSE
from typer.testing import CliRunner

from app.cli import app
from app.digest import sha256
from training import proposals
from training.checkpoint import load_checkpoint
from training.config import Stage
from training.data import load_coco
from training.teacher import load_teacher


def test_the_deployed_file_mends_what_the_detector_proposes(mended: Path) -> None:
    before, after, fit = overlaps(mended / "pose.onnx", mended / "detector.onnx", mended / "people")
    near = before > 0.3
    assert 60 < near.sum() < len(before)
    assert after[near].mean() > before[near].mean() + 0.05
    assert fit[near].mean() > fit[~near].mean() + 0.2


def test_it_teaches_others_whatever_size_they_see(mended: Path) -> None:
    student = dataclasses.replace(POSE, distillation="teacher", fau="mean", stages=(Stage(1, 64, 64, batch=4),))
    teacher = load_teacher(mended / "pose" / "last.pt", student, torch.device("cpu"))
    assert teacher.heatmaps(torch.zeros(1, 3, 64, 64)).shape == (1, 17, 8, 8)


def test_another_run_may_start_from_its_slim_checkpoint(mended: Path, tmp_path: Path) -> None:
    (tmp_path / "still.toml").write_text(RECIPE.replace("learning_rate = 5e-3", "learning_rate = 0.0"))
    arguments = ("--data", mended / "people", "--detector", mended / "detector.onnx", "--amp", "off", "--max-hours", 0)
    okdhp("train", tmp_path / "still.toml", "--out", tmp_path, "--init", mended / "pose.pt", *arguments)
    slim, started = (load_checkpoint(path)["ema"] for path in (mended / "pose.pt", tmp_path / "last.pt"))
    for name in ("branches.a.box_head.hidden.0.weight", "branches.a.box_head.answer.weight"):
        torch.testing.assert_close(started[name], slim[name].float())


def test_the_detector_looks_once_a_run_and_again_where_anything_changed(
    mended: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    found = proposals.find_people
    monkeypatch.setattr(proposals, "find_people", lambda *given: looks.append(len(given[2])) or found(*given))
    data, kept = load_coco(mended / "people", "train"), tmp_path / "regions.pt"
    first, again = (proposals.regions_of(mended / "detector.onnx", data, 0.1, kept) for _ in range(2))
    assert len(looks) == 1
    assert torch.equal(first.boxes, again.boxes) and torch.equal(first.picture, again.picture)
    tiny.make_fixed_detector(tmp_path / "other.onnx", SIDE, PLACES[:2])
    proposals.regions_of(tmp_path / "other.onnx", data, 0.1, kept)
    proposals.regions_of(tmp_path / "other.onnx", data, 0.2, kept)
    proposals.regions_of(tmp_path / "other.onnx", load_coco(mended / "people", "train", limit=30), 0.2, kept)
    assert len(looks) == 4 and looks[1] > looks[2] > looks[3]


def test_it_is_exported_at_its_own_size_alone(mended: Path, tmp_path: Path) -> None:
    arguments = ["export", str(mended / "pose" / "last.pt"), str(tmp_path / "x.onnx"), "--size", "64x96"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2 and "its box head sees crops of 96x96, not of 64x96" in result.output.replace("\n", "")


def test_card_and_checkpoint_know_the_detector_and_a_run_goes_on_with_no_other(mended: Path, tmp_path: Path) -> None:
    card = json.loads((mended / "pose.json").read_text())
    assert card["trained"]["detector"] == sha256(mended / "detector.onnx")
    tiny.make_fixed_detector(tmp_path / "other.onnx", SIDE, PLACES[:2])
    folders = ["--out", str(mended / "pose"), "--data", str(mended / "people")]
    regions = (mended / "pose" / "regions.pt").read_bytes()
    result = CliRunner().invoke(
        app, ["train", str(mended / "pose.toml"), *folders, "--detector", str(tmp_path / "other.onnx")]
    )
    assert result.exit_code == 2 and "has learnt from another detector" in result.output.replace("\n", "")
    assert (mended / "pose" / "regions.pt").read_bytes() == regions


def test_without_a_detector_it_is_refused_in_one_line_before_pictures_are_looked_for(
    mended: Path, tmp_path: Path
) -> None:
    arguments = ["train", str(mended / "pose.toml"), "--out", str(tmp_path), "--data", str(tmp_path / "nowhere")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2 and "region_share = 0.5 it needs a detector (--detector)" in result.output.replace(
        "\n", ""
    )
