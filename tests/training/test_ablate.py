"""The command on drawn people; what a row is stands in test_rows.py."""

import json
import shutil
import signal
import statistics
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from typer.testing import CliRunner

from app.cli import app
from training.ablation_table import Result, gain, markdown
from training.checkpoint import load_checkpoint
from training.pose_task import PoseTask
from training.recipes import load_recipe

RECIPE = """
name = "tiny"
task = "pose"
holdout = 0.2
kept = "best"
[encoder]
widths = [8, 8, 8, 8, 8]
depths = [0, 0, 0, 0, 0]
[[stages]]
epochs = 1
height = 64
width = 64
batch = 8
[[branches]]
name = "a"
widths = [8, 8]
[[branches]]
name = "b"
widths = [8, 8]
"""
ROWS = ("--row", "alone", "--row", "okdhp", "--row", "fpd")


def ablate(folder: Path, out: Path, *options: str, text: str = RECIPE) -> tuple[int, str]:
    recipe = out.parent / "tiny.toml"
    recipe.write_text(text)
    common = [str(recipe), "--data", str(folder), "--out", str(out), "--device", "cpu", "--amp", "off"]
    result = CliRunner().invoke(app, ["ablate", *common, *options])
    return result.exit_code, result.output


def test_rows_are_trained_once_with_each_seed_counted_and_drawn(drawn_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, said = ablate(drawn_folder, out, *ROWS, "--seeds", "1")
    assert code == 0, said
    files = {path.parents[1].name: path for path in out.glob("*/seed0/result.json")}
    assert set(files) == {"alone", "okdhp", "teacher", "fpd"}  # who teaches is trained unasked
    found = {name: Result(**json.loads(path.read_text())["result"]) for name, path in files.items()}
    alone, okdhp, teacher, fpd = (found[name] for name in ("alone", "okdhp", "teacher", "fpd"))
    assert alone.gmacs == okdhp.gmacs == fpd.gmacs < okdhp.training_gmacs
    assert alone.parameters == okdhp.parameters == fpd.parameters < teacher.parameters
    assert fpd.training_gmacs == pytest.approx(alone.training_gmacs + 2 * teacher.training_gmacs, rel=0.01)
    assert fpd.hours > teacher.hours
    table = (out / "ablation.md").read_text()
    assert [line.split(" | ")[0] for line in table.splitlines()[-4:]] == ["| alone", "| okdhp", "| teacher", "| fpd"]
    assert cv2.imread(str(out / "ablation.png")).shape[2] == 3

    trained = {path: path.stat().st_mtime_ns for path in out.glob("*/*/last.pt")}
    code, said = ablate(drawn_folder, out, "--row", "alone", "--row", "okdhp", "--seeds", "2")
    assert code == 0, said
    assert all(path.stat().st_mtime_ns == before for path, before in trained.items())
    assert {path.parents[1].name for path in out.glob("*/seed1/result.json")} == {"alone", "okdhp"}
    code, said = ablate(drawn_folder, out, "--row", "alone", text=RECIPE.replace("epochs = 1", "epochs = 2"))
    assert code == 2
    assert "is of another recipe, start or other data; choose another output folder" in said


def test_finished_rows_are_known_by_their_data_and_not_by_the_folder_s_name(drawn_folder: Path, tmp_path: Path) -> None:
    rows, out = ("--row", "alone", "--seeds", "1"), tmp_path / "out"
    code, said = ablate(drawn_folder, out, *rows)
    assert code == 0, said
    trained = (out / "alone/seed0/last.pt").stat().st_mtime_ns
    moved = shutil.copytree(drawn_folder, tmp_path / "moved")
    code, said = ablate(moved, out, *rows)
    assert code == 0, said
    assert (out / "alone/seed0/last.pt").stat().st_mtime_ns == trained
    for split in ("train", "val"):  # as many people, and one knee elsewhere
        content = json.loads((moved / f"{split}.json").read_text())
        content["annotations"][0]["keypoints"][40] += 1
        (moved / f"{split}.json").write_text(json.dumps(content))
        code, said = ablate(moved, out, *rows)
        assert code == 2
        assert "is of another recipe, start or other data; choose another output folder" in said
        shutil.copy(drawn_folder / f"{split}.json", moved)


def test_rows_start_from_one_trunk_and_nothing_else_of_a_checkpoint(drawn_folder: Path, tmp_path: Path) -> None:
    code, said = ablate(drawn_folder, tmp_path / "first", "--row", "okdhp", "--seeds", "1")
    assert code == 0, said
    start, still = tmp_path / "first/okdhp/seed0/last.pt", RECIPE.replace('"tiny"', '"tiny"\nlearning_rate = 0.0', 1)
    code, said = ablate(drawn_folder, tmp_path / "out", *ROWS, "--seeds", "1", "--init", str(start), text=still)
    assert code == 0, said
    assert "trunk started from last.pt (" in (tmp_path / "out/ablation.md").read_text()
    begun = load_checkpoint(start)["ema"]
    for row in ("alone", "okdhp", "teacher", "fpd"):
        kernels = {
            name: torch.equal(weight, begun[name])
            for name, weight in load_checkpoint(tmp_path / f"out/{row}/seed0/last.pt")["model"].items()
            if name.endswith("conv3x3") and begun.get(name, weight[:0]).shape == weight.shape
        }
        assert all(same == name.startswith("trunk.") for name, same in kernels.items())
        assert any(kernels.values())
    code, said = ablate(drawn_folder, tmp_path / "out", "--row", "alone", "--seeds", "1", text=still)
    assert code == 2
    assert "is of another recipe, start or other data" in said


def test_a_signal_in_a_rows_last_evaluation_stops_the_ablation_and_the_same_command_goes_on(
    drawn_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, signals, evaluate = ("--row", "alone", "--row", "okdhp", "--seeds", "1"), [signal.SIGTERM], PoseTask.evaluate

    def signalled(*arguments: Any) -> Any:
        if signals:
            signal.raise_signal(signals.pop())
        return evaluate(*arguments)

    monkeypatch.setattr(PoseTask, "evaluate", signalled)
    code, said = ablate(drawn_folder, tmp_path / "out", *rows)
    assert code == 128 + signal.SIGTERM, said
    assert f"# Ablation of tiny{chr(10)}" in said
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["alone"]
    code, said = ablate(drawn_folder, tmp_path / "out", *rows)
    assert code == 0, said
    assert [line.split(" | ")[0] for line in said.splitlines() if line.startswith("| ")][1:] == ["| alone", "| okdhp"]


@pytest.mark.parametrize("task", ["pose", "detector"])
def test_a_val_that_nobody_can_be_measured_in_is_refused_before_the_first_row(
    drawn_folder: Path, tmp_path: Path, task: str
) -> None:
    folder = shutil.copytree(drawn_folder, tmp_path / "small")
    content = json.loads((folder / "val.json").read_text())
    for person in content["annotations"]:
        person["bbox"][3] = 60
    (folder / "val.json").write_text(json.dumps(content))
    code, said = ablate(folder, tmp_path / "out", text=RECIPE.replace('"pose"', f'"{task}"'))
    assert code == 2
    measure = {"pose": "oks_share", "detector": "recall_at_0.3_false"}[task]
    assert said.splitlines()[-1] == f"okdhp: nobody in split val can be measured by {measure}"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"widths = [8, 8]\n": "widths = [8, 8, 8]\n"}, "big: cannot teach tiny: its heatmaps are 24x24, not 12x12"),
        (
            {"8, 8]\nd": "8, 8, 8]\nd", "0, 0]": "0, 0, 0]", "= 96": "= 128"},  # six levels see what 64 divides
            "big: this teacher cannot see what tiny sees: input sides must be above 0 and divisible by 64, got 96x96",
        ),
        ({"batch = 8": "batch = 99"}, "30 training examples do not fill one batch of 99: lower the stage's batch"),
    ],
)
def test_a_teacher_who_could_not_teach_is_refused_before_the_first_row(
    drawn_folder: Path, tmp_path: Path, changes: dict[str, str], complaint: str
) -> None:
    text = RECIPE.replace("= 64", "= 96")
    heavy, teacher = text.replace("tiny", "big"), tmp_path / "big.toml"
    for old, new in changes.items():
        heavy = heavy.replace(old, new)
    teacher.write_text(heavy)
    code, said = ablate(drawn_folder, tmp_path / "out", "--teacher", str(teacher), text=text)
    assert (code, said.splitlines()[-1]) == (2, f"okdhp: {complaint}")
    assert not (tmp_path / "out").exists()


def test_a_recipe_that_wants_a_detector_is_told_what_to_do_instead(drawn_folder: Path, tmp_path: Path) -> None:
    code, said = ablate(drawn_folder, tmp_path / "out", text=RECIPE.replace("holdout", "region_share = 0.25\nholdout"))
    without = "an ablation has no detector to learn boxes from: give it the recipe with region_share = 0, not 0.25"
    assert (code, said) == (2, f"okdhp: tiny: {without}\n")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [(("--row", "nonsense"), "no row 'nonsense'; the rows are alone, okdhp"), (("--seeds", "0"), "at least 1, got 0")],
)
def test_a_wrong_option_is_said_in_one_line(
    drawn_folder: Path, tmp_path: Path, options: tuple[str, str], complaint: str
) -> None:
    code, said = ablate(drawn_folder, tmp_path / "out", *options)
    assert (code, said.count("\n")) == (2, 1)
    assert complaint in said


def result(row: str, seed: int, score: float) -> Result:
    return Result(row, "what", seed, "a", score, training_gmacs=2.0, hours=seed + 1.0, gmacs=0.5, parameters=1_500_000)


def test_table_shows_mean_spread_and_points_over_the_same_seeds_alone(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(RECIPE)
    results = [result("alone", 0, 0.5), result("alone", 1, 0.6), result("okdhp", 0, 0.53), result("okdhp", 1, 0.6)]
    table = markdown(
        results, load_recipe(tmp_path / "r.toml"), {"data": "3 people", "hardware": "an abacus", "score": "oks_share"}
    )
    spread = statistics.stdev([53, 60])
    last = f"| okdhp | what | 2 | 56.50 | {spread:.2f} | +1.50 | 2.00 | 1.50 | 0.50 | 1.500 |"
    assert table.splitlines()[-1] == last
    assert "3 people" in table


def test_seeds_that_only_one_row_has_do_not_count_as_gain() -> None:
    alone = [result("alone", 0, 0.5)]
    assert gain([result("x", 0, 0.6), result("x", 1, 0.1)], alone) == pytest.approx(10.0)
    assert gain([result("x", 1, 0.1)], alone) is None
