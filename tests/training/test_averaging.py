"""Between a network and what fine-tuning made of it."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from commandline import okdhp, refused
from small_runs import POSE, run
from typer.testing import CliRunner

from app.cli import app
from app.digest import sha256
from training.checkpoint import load_checkpoint
from training.config import Branch
from training.train import Start


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory, drawn_folder: Path) -> Path:
    """A folder with before/last.pt, and after/last.pt that went on from it."""
    folder = tmp_path_factory.mktemp("tuned")
    run(POSE, drawn_folder, folder / "before")
    start = Start(init=folder / "before" / "last.pt")
    run(dataclasses.replace(POSE, seed=1), drawn_folder, folder / "after", start=start)
    return folder


def mean(folder: Path, share: float, out: Path) -> dict[str, torch.Tensor]:
    okdhp("average", folder / "before" / "last.pt", folder / "after" / "last.pt", out, "--share", share)
    return load_checkpoint(out)["ema"]


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_every_weight_lies_where_the_share_says(tuned: Path, tmp_path: Path, share: float) -> None:
    before, after = (load_checkpoint(tuned / name / "last.pt")["ema"] for name in ("before", "after"))
    mixed = mean(tuned, share, tmp_path / "mean.pt")
    assert mixed.keys() == after.keys()
    floats = [name for name in mixed if mixed[name].is_floating_point()]
    assert any("running_var" in name for name in floats)
    for name in floats:
        torch.testing.assert_close(mixed[name], (1 - share) * before[name] + share * after[name])


def test_it_is_exported_and_its_card_says_what_it_is_and_claims_no_score_of_the_run(
    tuned: Path, tmp_path: Path
) -> None:
    mean(tuned, 0.5, tmp_path / "mean.pt")
    okdhp("export", tmp_path / "mean.pt", tmp_path / "pose.onnx")
    card = json.loads((tmp_path / "pose.json").read_text())
    assert card["trained"]["averaged"] == {"with": sha256(tuned / "before" / "last.pt"), "share": 0.5}
    assert load_checkpoint(tuned / "after" / "last.pt")["history"][-1]["scores"] and card["held_out"] == {}


def test_it_starts_another_run_but_is_none_to_go_on_with(tuned: Path, drawn_folder: Path, tmp_path: Path) -> None:
    mean(tuned, 0.5, tmp_path / "last.pt")
    with pytest.raises(ValueError, match="is a slim checkpoint"):
        run(dataclasses.replace(POSE, seed=1), drawn_folder, tmp_path)
    went_on = run(POSE, drawn_folder, tmp_path / "next", start=Start(init=tmp_path / "last.pt"), max_hours=0.0)
    assert went_on["before"][-1]["averaged"]["share"] == 0.5


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("before/last.pt", "is read, and would be written over; choose another name"),
        ("after/../after/last.pt", "is read, and would be written over; choose another name"),
        ("other/last.pt", "a run goes on from it, and could not any more; choose another name"),
        ("pose.onnx", "is there already, and no checkpoint; choose another name"),
    ],
)
def test_what_is_needed_is_not_written_over(tuned: Path, tmp_path: Path, target: str, why: str) -> None:
    folder = shutil.copytree(tuned, tmp_path / "runs")
    shutil.copytree(folder / "after", folder / "other")
    (folder / "pose.onnx").write_bytes(b"a network")
    inputs, before = (folder / "before" / "last.pt", folder / "after" / "last.pt"), (folder / target).read_bytes()
    assert refused("average", *inputs, folder / target) == f"okdhp: {folder / target}: {why}"
    assert (folder / target).read_bytes() == before


def test_an_earlier_mean_is_written_over(tuned: Path, tmp_path: Path) -> None:
    first, second = (mean(tuned, share, tmp_path / "mean.pt") for share in (0.25, 0.75))
    assert any(not torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("share", "other", "complaint"),
    [("1.5", "last.pt", "0 to 1, got 1.5"), ("0.5", "other/last.pt", "did not go on from")],
)
def test_what_cannot_be_averaged_is_refused_in_one_line(
    tuned: Path, drawn_folder: Path, tmp_path: Path, share: str, other: str, complaint: str
) -> None:
    wider = dataclasses.replace(POSE, branches=(Branch("a", (16, 16, 16)), Branch("b", (20, 16, 16))))
    run(wider, drawn_folder, tmp_path / "other", max_hours=0.0)
    before = tmp_path / other if "/" in other else tuned / "before" / other
    arguments = [str(before), str(tuned / "after" / "last.pt"), str(tmp_path / "x.pt"), "--share", share]
    result = CliRunner().invoke(app, ["average", *arguments])
    assert result.exit_code == 2 and complaint in result.output.replace("\n", "")
    assert not (tmp_path / "x.pt").exists()
