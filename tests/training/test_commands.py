"""From recipe to deployed file through the command line, on drawn people."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commandline import TINY_RECIPE, okdhp, refused
from typer.testing import CliRunner

from app.cli import app
from app.digest import sha256
from training.calibration import MIN_OUTCOMES, TYPICAL
from training.checkpoint import load_checkpoint
from training.commands import pick_device, threads_beside, wants_amp
from training.datasets import load_dataset
from training.decoding import deployed_decoding
from training.evaluate import (
    candidates_threshold,
    load_network,
    measure_poses,
)
from training.joints import COCO
from training.metrics import measured
from training.pose_task import build_model, predict, score
from training.recipes import recipe_from_dict
from training.restore import start_from


@pytest.mark.parametrize("task", ["pose", "detector"])
def test_card_says_what_was_trained_on_what_and_how_good_it_is(trained: Path, task: str) -> None:
    card = json.loads((trained / f"{task}.json").read_text())
    assert card["sha256"] == sha256(trained / card["file"])
    best = max("ab", key=lambda name: card["held_out"][name])
    assert (card["branch"], card["task"], card["recipe"]["name"]) == ("b" if task == "pose" else best, task, "tiny")
    assert card["input"] == {"height": 96, "width": 96, "layout": "NHWC", "dtype": "uint8", "colour": "RGB"}
    assert card["data"] == "36 people of people, split train"
    assert card["trained"]["epochs"] == 4
    assert "cores of" in card["trained"]["hardware"]
    assert len(card["keypoints"]) == (17 if task == "pose" else 0)
    assert ("oks_share/all" if task == "pose" else "recall_at_0.3_false") in card["scores"]


def test_deployed_file_scores_as_the_branch_in_training(trained: Path, drawn_folder: Path) -> None:
    content, dataset = load_checkpoint(trained / "pose" / "last.pt"), load_dataset(drawn_folder, "val")
    model = build_model(recipe_from_dict(content["recipe"]))
    model.load_state_dict(content["ema"])
    people = dataset.people
    people = people.subset(measured(people.labelled.numpy(), people.boxes.numpy()))
    keypoints, _ = predict(model, dataset.pictures, people, (96, 96), deployed_decoding(COCO))["b"]
    count, found = measure_poses(load_network(trained / "pose.onnx"), dataset).oks_table()["all"]
    assert count == len(people) == 36
    assert found == pytest.approx(score(keypoints, people, COCO), abs=0.01)


def test_slim_checkpoint_starts_another_run_and_exports_the_same_network(trained: Path, tmp_path: Path) -> None:
    full, thin = trained / "pose" / "last.pt", trained / "pose.pt"
    assert thin.stat().st_size < full.stat().st_size / 4
    okdhp("export", thin, tmp_path / "again.onnx")
    pictures = [np.random.default_rng(0).integers(0, 255, (96, 96, 3), dtype=np.uint8)]
    first, again = (load_network(path).run(pictures) for path in (trained / "pose.onnx", tmp_path / "again.onnx"))
    np.testing.assert_allclose(first[1], again[1], atol=0.01)
    recipe = recipe_from_dict(load_checkpoint(full)["recipe"])
    model = build_model(recipe)
    start_from(model, "pose", thin)
    kept = json.loads((trained / "pose.json").read_text())["branch"]
    name = f"branches.{kept}.head.weight"
    torch.testing.assert_close(model.state_dict()[name], load_checkpoint(full)["ema"][name], atol=1e-3, rtol=1e-2)
    others = tuple(f"branches.{branch.name}." for branch in recipe.branches if branch.name != kept)
    assert others and not any(name.startswith(others) for name in load_checkpoint(thin)["ema"])


def test_a_network_can_be_deployed_at_another_size_than_it_was_trained_at(trained: Path, tmp_path: Path) -> None:
    okdhp("export", trained / "detector" / "last.pt", tmp_path / "wide.onnx", "--size", "64x128")
    network = load_network(tmp_path / "wide.onnx")
    assert network.size_wh == (128, 64)
    boxes, _ = network.run([np.zeros((64, 128, 3), np.uint8)])
    assert boxes.shape[2] == 4
    card = json.loads((tmp_path / "wide.json").read_text())
    assert (card["input"]["height"], card["input"]["width"]) == (64, 128)


@pytest.mark.parametrize(
    ("size", "complaint"), [("64", "such as 256x192, got '64'"), ("100x64", "divisible by 32, got 100x64")]
)
def test_a_size_that_cannot_be_is_refused(trained: Path, tmp_path: Path, size: str, complaint: str) -> None:
    arguments = ["export", str(trained / "detector" / "last.pt"), str(tmp_path / "x.onnx"), "--size", size]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert complaint in result.output.replace("\n", " ")
    assert not (tmp_path / "x.onnx").exists()


def test_a_network_of_the_other_kind_is_refused_before_pictures_are_looked_for(trained: Path, tmp_path: Path) -> None:
    pose, detector = trained / "pose.onnx", trained / "detector.onnx"
    a_pose, a_detector = (
        f"okdhp: {path}: is a {kind} network, and a {wanted} network is wanted here"
        for path, kind, wanted in ((pose, "pose", "detector"), (detector, "detector", "pose"))
    )
    data = ("--data", tmp_path / "nowhere")
    assert refused("evaluate", *data, "--pose", detector) == a_detector
    assert refused("evaluate", *data, "--pose", pose, "--detector", pose) == a_pose
    recipe = tmp_path / "regions.toml"
    text = TINY_RECIPE.replace("TASK", "pose").replace("KEPT", "a")
    recipe.write_text(text.replace("holdout", "region_share = 0.3\nholdout"))
    assert refused("train", recipe, *data, "--out", tmp_path / "run", "--detector", pose) == a_pose


def test_a_branch_that_is_not_there_is_refused_by_name(trained: Path, tmp_path: Path) -> None:
    checkpoint = trained / "pose" / "last.pt"
    line = refused("export", checkpoint, tmp_path / "pose.onnx", "--branch", "c")
    assert line == f"okdhp: {checkpoint}: has no branch 'c'; its branches are a, b"
    assert not list(tmp_path.iterdir())


def test_a_branch_a_version_and_half_the_file_are_exported_where_asked(trained: Path, tmp_path: Path) -> None:
    """Of the pose recipe another branch is the one that is kept."""
    okdhp("export", trained / "pose.pt", tmp_path / "whole.onnx")
    okdhp("export", trained / "pose" / "last.pt", tmp_path / "a.onnx", "--branch", "a", "--version", "7.1", "--half")
    card = json.loads((tmp_path / "a.json").read_text())
    assert (card["branch"], card["version"]) == ("a", "7.1")
    assert (tmp_path / "a.onnx").stat().st_size < 0.8 * (tmp_path / "whole.onnx").stat().st_size


def test_an_exported_network_given_as_a_checkpoint_is_told_where_that_is(trained: Path, tmp_path: Path) -> None:
    line = refused("export", trained / "pose.onnx", tmp_path / "again.onnx")
    about = "not a readable checkpoint (a .pt file); an exported network's checkpoint lies beside it"
    assert line == f"okdhp: {trained}/pose.onnx: {about}"


def test_an_export_says_what_concerns_its_user_alone(trained: Path, tmp_path: Path) -> None:
    """Not what PyTorch's exporter thinks of the graph."""
    command = [sys.executable, "-m", "app.cli", "export", trained / "pose.pt", tmp_path / "again.onnx"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    said = "scores are calibrated as the bundled student's are: hold out more people to have their own\n"
    assert (done.stdout, done.stderr) == ("{}\n", said)


def test_an_export_of_a_run_that_was_stopped_says_how_far_it_was(
    drawn_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe, checkpoint = tmp_path / "r.toml", tmp_path / "run" / "last.pt"
    recipe.write_text(TINY_RECIPE.replace("TASK", "pose").replace("KEPT", "a"))
    options = ("--out", checkpoint.parent, "--amp", "off", "--device", "cpu", "--max-hours", 0, "--limit", 20)
    said = okdhp("train", recipe, "--data", drawn_folder, *options)  # as asked, so no failure
    people = len(load_dataset(drawn_folder, "train", limit=20).people)
    assert f"{people} people in 20 pictures; cpu\n" in said
    okdhp("export", checkpoint, tmp_path / "pose.onnx")
    assert f"{checkpoint}: is of a run that was stopped after 1 of 4 epochs" in caplog.messages


def test_of_a_run_that_diverges_one_line_names_the_cause(drawn_folder: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    text = TINY_RECIPE.replace("TASK", "pose").replace("KEPT", "a").replace("5e-3", "1e4\nwarmup_epochs = 0")
    recipe.write_text(text)
    options = ("--out", tmp_path / "run", "--amp", "off", "--device", "cpu")
    assert "lower learning_rate, which is 10000" in refused("train", recipe, "--data", drawn_folder, *options)


def test_a_detector_s_card_has_no_scores_of_a_val_without_people(
    trained: Path, drawn_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = shutil.copytree(drawn_folder, tmp_path / "people")
    content = json.loads((folder / "val.json").read_text())
    (folder / "val.json").write_text(json.dumps(content | {"annotations": []}))
    okdhp("export", trained / "detector" / "last.pt", tmp_path / "detector.onnx", "--data", folder)
    assert json.loads((tmp_path / "detector.json").read_text())["scores"] == {}
    assert "not scored: nobody can be measured by recall_at_0.3_false" in caplog.messages


def test_an_export_never_replaces_the_checkpoint_that_another_run_goes_on_from(trained: Path, tmp_path: Path) -> None:
    other = tmp_path / "last.pt"
    other.write_bytes((trained / "pose" / "last.pt").read_bytes())
    said = refused("export", trained / "pose" / "last.pt", tmp_path / "last.onnx")
    assert said == f"okdhp: {other}: a run goes on from it, and could not any more; choose another name"
    assert not (tmp_path / "last.onnx").exists()


@pytest.mark.parametrize("out", ["last.onnx", "student.pt", "student.json"])
def test_an_export_never_replaces_the_checkpoint_it_is_made_of(trained: Path, tmp_path: Path, out: str) -> None:
    shutil.copy(trained / "pose" / "last.pt", tmp_path / "last.pt")
    before = (tmp_path / "last.pt").read_bytes()
    result = CliRunner().invoke(app, ["export", str(tmp_path / "last.pt"), str(tmp_path / out)])
    assert result.exit_code == 2
    assert (tmp_path / "last.pt").read_bytes() == before
    assert list(tmp_path.iterdir()) == [tmp_path / "last.pt"]


@pytest.mark.parametrize(
    ("command", "source", "module"),
    [("export", "pose/last.pt", "training.exporting"), ("quantize", "pose.onnx", "training.quantising")],
)
def test_what_stops_before_its_card_is_written_leaves_file_and_card_as_they_were(
    trained: Path, drawn_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    command: str, source: str, module: str,
) -> None:  # fmt: skip
    (tmp_path / "mine.onnx").write_bytes(b"an older network")
    (tmp_path / "mine.json").write_text("{}")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def interrupted(*arguments: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"{module}.scores_of", interrupted)
    arguments = [trained / source, tmp_path / "mine.onnx", "--data", drawn_folder]
    result = CliRunner().invoke(app, [command, *map(str, arguments)])
    assert result.exit_code != 0
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_what_is_chosen_by_data_comes_of_the_held_out_pictures(trained: Path, drawn_folder: Path) -> None:
    held = load_dataset(drawn_folder, "train", held_out=0.1)
    card = json.loads((trained / "detector.json").read_text())
    assert card["min_score"] == candidates_threshold(load_network(trained / "detector.onnx"), held)


def test_of_few_held_out_people_a_typical_calibration_is_taken_so_that_scores_are_no_mere_expectations(
    trained: Path, drawn_folder: Path, tmp_path: Path
) -> None:
    """What a heatmap promises lies far below the chance that it is right: nobody would reach POSE_MIN_SCORE."""
    assert len(load_dataset(drawn_folder, "train", held_out=0.1).people) * 12 < 2 * MIN_OUTCOMES
    okdhp("export", trained / "pose" / "last.pt", tmp_path / "alone.onnx")
    for card in (trained / "pose.json", tmp_path / "alone.json"):
        assert json.loads(card.read_text())["calibration"] == {"half": TYPICAL.half, "slope": TYPICAL.slope}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["train", "tiny.toml", "--data", ".", "--out", "x"], "expected train.json, annotations/person_keypoints_"),
        (["train", "absent.toml", "--data", ".", "--out", "x"], "absent.toml: [Errno 2] No such file"),
        (["export", "absent.pt", "x.onnx"], "absent.pt: not a readable checkpoint"),
        (["train", "absent.toml", "--data", ".", "--out", "x", "--device", "cuda"], "sees no CUDA device"),
        (
            ["train", "tiny.toml", "--data", ".", "--out", "x", "--device", "gpu"],
            "auto, cpu, cuda or cuda:N, got 'gpu'",
        ),
        (["train", "tiny.toml", "--data", ".", "--out", "x", "--amp", "yes"], "amp is auto, on or off, got 'yes'"),
    ],
)
def test_what_a_user_can_mend_is_said_in_one_line(
    arguments: list[str], complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny.toml").write_text(TINY_RECIPE.replace("TASK", "pose").replace("KEPT", "a"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert complaint in result.output.replace("\n", " ")
    assert "Traceback" not in result.output


def test_beside_a_gpu_an_operation_on_the_cpu_takes_one_thread() -> None:
    assert threads_beside(torch.device("cuda", 1)) == 1
    assert threads_beside(torch.device("cpu")) == torch.get_num_threads()


def test_bfloat16_is_used_where_asked_or_where_it_is_faster() -> None:
    assert wants_amp("on", torch.device("cpu"))
    assert not wants_amp("off", torch.device("cuda"))
    assert wants_amp("auto", torch.device("cuda"))
    assert pick_device("cpu") == torch.device("cpu")
