"""A trained student's box head is fitted to another detector, and nothing else of it changes."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from commandline import okdhp
from mending import PLACES, SIDE, overlaps
from small_runs import DETECTOR, run
from typer.testing import CliRunner

from app.cli import app
from app.digest import sha256
from training.checkpoint import load_checkpoint, save_checkpoint
from training.data import held_pictures, load_coco
from training.pose_crops import PoseCrops
from training.restore import without_box_heads

LOW = [(x1, y1 + 14, x2, y2 + 14) for x1, y1, x2, y2 in PLACES]  # another one's boxes begin below the heads


@pytest.fixture(scope="module")
def fitted(mended: Path) -> Path:
    """A folder with low.onnx, head.pt, the student's box head fitted to it, and fitted.onnx."""
    folder = mended / "fitted"
    folder.mkdir()
    tiny.make_fixed_detector(folder / "low.onnx", SIDE, LOW)
    arguments = ("--data", mended / "people", "--detector", folder / "low.onnx", "--steps", 120, "--batch", 24)
    okdhp("fit-boxes", mended / "pose" / "last.pt", folder / "head.pt", *arguments)
    okdhp("export", folder / "head.pt", folder / "fitted.onnx", "--data", mended / "people")
    return folder


def test_it_mends_the_new_detector_s_boxes_better_than_before(mended: Path, fitted: Path) -> None:
    given, before, _ = overlaps(mended / "pose.onnx", fitted / "low.onnx", mended / "people")
    _, after, fit = overlaps(fitted / "fitted.onnx", fitted / "low.onnx", mended / "people")
    near = given > 0.3
    assert near.sum() > 40
    assert after[near].mean() > before[near].mean() + 0.02
    assert fit[near].mean() > fit[~near].mean() + 0.1


def test_all_but_the_box_heads_is_as_it_was(mended: Path, fitted: Path) -> None:
    before, after = (load_checkpoint(path)["ema"] for path in (mended / "pose" / "last.pt", fitted / "head.pt"))
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(".box_head." in name for name in changed)
    assert {name.split(".")[1] for name in changed} == {"a", "b"}, "every branch's"


def test_nothing_is_learnt_from_the_pictures_that_the_recipe_held_out(mended: Path, fitted: Path) -> None:
    held = held_pictures(load_coco(mended / "people", "train").image_ids, 0.1)
    taught = set(torch.load(fitted / "regions.pt")["regions"][0].tolist())
    assert held.any() and taught == set(np.flatnonzero(~held).tolist())


def test_each_step_learns_from_other_regions(
    mended: Path, fitted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds, of_regions = [], PoseCrops.of_regions

    def noted(crops: PoseCrops, count: int, size_hw: tuple[int, int], generator: torch.Generator) -> Any:
        seeds.append(generator.initial_seed())
        return of_regions(crops, count, size_hw, generator)

    monkeypatch.setattr(PoseCrops, "of_regions", noted)
    arguments = ("--data", mended / "people", "--detector", fitted / "low.onnx", "--steps", 3, "--batch", 8)
    okdhp("fit-boxes", mended / "pose.pt", tmp_path / "again.pt", *arguments)
    assert len(set(seeds)) == 3


def test_the_card_says_what_it_was_fitted_to(mended: Path, fitted: Path) -> None:
    old, new = (json.loads(path.read_text()) for path in (mended / "pose.json", fitted / "fitted.json"))
    expected = {"detector": sha256(fitted / "low.onnx"), "steps": 120, "batch": 24}
    assert new["trained"]["boxes"] == expected | {"before": sha256(mended / "pose" / "last.pt")}
    assert new["recipe"] == old["recipe"] and new["held_out"] == old["held_out"] != {}
    assert "boxes" not in old["trained"]


def test_a_bundled_checkpoint_will_do(mended: Path, fitted: Path, tmp_path: Path) -> None:
    """The slim one beside an exported file has half precision and one branch alone."""
    arguments = ("--data", mended / "people", "--detector", fitted / "low.onnx", "--steps", 1, "--batch", 8)
    okdhp("fit-boxes", mended / "pose.pt", tmp_path / "again.pt", *arguments)
    slim, again = (load_checkpoint(path)["ema"] for path in (mended / "pose.pt", tmp_path / "again.pt"))
    assert slim.keys() == again.keys()
    changed = {name for name in slim if not torch.equal(slim[name].float(), again[name].float())}
    assert changed and all(name.startswith("branches.a.box_head.") for name in changed)


def test_interrupted_it_writes_what_it_has_learnt(mended: Path, fitted: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "app.cli", "fit-boxes", mended / "pose" / "last.pt", tmp_path / "boxes.pt"]
    options = ["--data", mended / "people", "--detector", fitted / "low.onnx", "--steps", "100000", "--batch", "8"]
    with subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True, bufsize=1) as fitting:
        assert fitting.stderr is not None
        said = ""
        while "boxes:" not in said or "step/s" not in said:
            said += fitting.stderr.read(1)
        os.kill(fitting.pid, signal.SIGINT)
        said += fitting.stderr.read()
        assert fitting.wait(60) == 128 + signal.SIGINT
    done = load_checkpoint(tmp_path / "boxes.pt")["boxes"]["steps"]
    assert 0 < done < 100000 and f"stopped after step {done} of 100000" in said


def refused(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["fit-boxes", *map(str, arguments)])
    assert result.exit_code == 2
    return result.output.replace("\n", "")


def test_what_the_detector_proposes_and_the_checkpoint_do_not_share_a_name(mended: Path, fitted: Path) -> None:
    arguments = ("--data", mended / "people", "--detector", fitted / "low.onnx", "--steps", 1, "--batch", 8)
    said = refused(mended / "pose.pt", fitted / "regions.pt", *arguments)
    assert "kept in a file of this name; choose another one" in said
    checkpoint = fitted / "other" / "regions.pt"
    checkpoint.parent.mkdir()
    checkpoint.write_bytes((mended / "pose.pt").read_bytes())
    assert "move it elsewhere" in refused(checkpoint, fitted / "other" / "head.pt", *arguments)
    assert checkpoint.read_bytes() == (mended / "pose.pt").read_bytes()


def test_what_is_needed_is_not_written_over(mended: Path, fitted: Path, tmp_path: Path) -> None:
    arguments = ("--data", mended / "people", "--detector", fitted / "low.onnx", "--steps", 1, "--batch", 8)
    slim, resumable = tmp_path / "slim.pt", tmp_path / "run" / "last.pt"
    resumable.parent.mkdir()
    for copy, original in ((slim, mended / "pose.pt"), (resumable, mended / "pose" / "last.pt")):
        copy.write_bytes(original.read_bytes())
    assert "is read, and would be written over" in refused(slim, slim, *arguments)
    assert "a run goes on from it, and could not any more" in refused(slim, resumable, *arguments)
    assert "is there already, and no checkpoint" in refused(slim, fitted / "low.onnx", *arguments)
    assert slim.read_bytes() == (mended / "pose.pt").read_bytes()
    assert resumable.read_bytes() == (mended / "pose" / "last.pt").read_bytes()
    assert not (tmp_path / "regions.pt").exists() and not (tmp_path / "run" / "regions.pt").exists()


def test_a_file_of_that_name_that_is_something_else_stays(mended: Path, fitted: Path, tmp_path: Path) -> None:
    arguments = ("--data", mended / "people", "--detector", fitted / "low.onnx", "--steps", 1, "--batch", 8)
    (tmp_path / "regions.pt").write_bytes(b"nothing that torch wrote")
    assert "move it elsewhere" in refused(mended / "pose.pt", tmp_path / "again.pt", *arguments)
    assert (tmp_path / "regions.pt").read_bytes() == b"nothing that torch wrote"
    assert not (tmp_path / "again.pt").exists()


def test_a_network_that_has_no_box_head_gets_one(mended: Path, fitted: Path, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "plain.pt", without_box_heads(load_checkpoint(mended / "pose" / "last.pt")))
    arguments = ("--data", mended / "people", "--detector", fitted / "low.onnx", "--steps", 120, "--batch", 24)
    okdhp("fit-boxes", tmp_path / "plain.pt", tmp_path / "head.pt", *arguments)
    okdhp("export", tmp_path / "head.pt", tmp_path / "head.onnx", "--data", mended / "people")
    given, mending, fit = overlaps(tmp_path / "head.onnx", fitted / "low.onnx", mended / "people")
    near = given > 0.3
    assert mending[near].mean() > given[near].mean() + 0.02
    assert fit[near].mean() > fit[~near].mean() + 0.1


def test_what_can_have_no_box_head_or_is_no_detector_is_refused_in_one_line(
    mended: Path, fitted: Path, drawn_folder: Path, tmp_path: Path
) -> None:
    run(DETECTOR, drawn_folder, tmp_path / "people", max_hours=0.0)
    data, detector = ("--data", mended / "people"), ("--detector", fitted / "low.onnx")
    said = refused(tmp_path / "people" / "last.pt", tmp_path / "x.pt", *data, *detector)
    assert "can have no box head: region_share is for pose students" in said
    nowhere = ("--data", tmp_path / "nowhere")  # said before pictures are looked for
    said = refused(mended / "pose" / "last.pt", tmp_path / "x.pt", *nowhere, "--detector", mended / "pose.onnx")
    assert "is a pose network, and a detector network is wanted here" in said
    assert not (tmp_path / "x.pt").exists()
