"""What a checkpoint is good for: going on, starting another run, and nothing else."""

import dataclasses
import errno
import fcntl
import hashlib
import logging
import os
import shutil
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from drawn import changed
from small_disk import disk_of
from small_runs import DETECTOR, POSE, run

from training.checkpoint import CheckpointError, alone_in, load_checkpoint, save_checkpoint
from training.config import Recipe, Stage
from training.exporting import slim
from training.restore import build_network, restore, start_from
from training.train import Start

SHORT = dataclasses.replace(POSE, stages=(Stage(1, 64, 64, batch=8),))


def fewer(content: dict[str, Any]) -> None:
    del content["annotations"][0]


def test_a_run_is_not_resumed_on_other_data(drawn_folder: Path, tmp_path: Path) -> None:
    run(SHORT, drawn_folder, tmp_path / "run", about={"data": "36 people of one"})
    other = changed(drawn_folder, tmp_path / "other", fewer)
    with pytest.raises(CheckpointError, match="has learnt from 36 people of one, not 35 people of other"):
        run(SHORT, other, tmp_path / "run", about={"data": "35 people of other"})


def test_a_run_goes_on_with_the_same_data_in_a_folder_of_another_name(drawn_folder: Path, tmp_path: Path) -> None:
    run(SHORT, drawn_folder, tmp_path / "run", about={"data": "36 people of one"})
    moved = shutil.copytree(drawn_folder, tmp_path / "moved")
    assert run(SHORT, moved, tmp_path / "run", about={"data": "36 people of moved"})["epoch"] == 1


@pytest.mark.parametrize("recipe", [SHORT, dataclasses.replace(DETECTOR, stages=SHORT.stages)])
def test_a_run_is_not_resumed_with_pictures_added_in_which_nobody_is(
    recipe: Recipe, drawn_folder: Path, tmp_path: Path
) -> None:
    def edit(content: dict[str, Any]) -> None:
        content["images"] += [{**content["images"][0], "id": 1000}]

    run(recipe, drawn_folder, tmp_path / "run")
    with pytest.raises(CheckpointError, match="has learnt from other pictures; choose another output folder"):
        run(recipe, changed(drawn_folder, tmp_path / "more", edit), tmp_path / "run")


def test_an_older_checkpoint_that_tells_less_is_gone_on_from(drawn_folder: Path, tmp_path: Path) -> None:
    content = run(SHORT, drawn_folder, tmp_path, about={"data": "36 people of one"})
    recipe = {key: value for key, value in content["recipe"].items() if key != "detach_target"}
    known = {key: content[key] for key in content if key != "pictures"}
    save_checkpoint(tmp_path / "last.pt", known | {"recipe": recipe})
    assert run(SHORT, drawn_folder, tmp_path)["epoch"] == 1
    older = {key: content[key] for key in content if key not in ("pictures", "annotations")}
    save_checkpoint(tmp_path / "last.pt", older)
    with pytest.raises(CheckpointError, match="has learnt from 36 people of one, not 36 people of two"):
        run(SHORT, drawn_folder, tmp_path, about={"data": "36 people of two"})
    assert run(SHORT, drawn_folder, tmp_path, about={"data": "36 people of one"})["epoch"] == 1


def test_a_run_is_not_resumed_on_other_annotations_of_as_many_people(drawn_folder: Path, tmp_path: Path) -> None:
    def edit(content: dict[str, Any]) -> None:
        content["annotations"][0]["bbox"][2] += 1

    short = dataclasses.replace(POSE, stages=(Stage(1, 64, 64, batch=8),))
    run(short, drawn_folder, tmp_path / "run")
    with pytest.raises(CheckpointError, match="has learnt from other annotations"):
        run(short, changed(drawn_folder, tmp_path / "other", edit), tmp_path / "run")


def test_a_slim_checkpoint_is_not_gone_on_from(drawn_folder: Path, tmp_path: Path) -> None:
    short = dataclasses.replace(POSE, stages=(Stage(1, 64, 64, batch=8),))
    save_checkpoint(tmp_path / "last.pt", slim(run(short, drawn_folder, tmp_path), "a"))
    with pytest.raises(CheckpointError, match="is a slim checkpoint: a run can start from it"):
        run(short, drawn_folder, tmp_path)


def test_a_slim_checkpoint_of_branches_that_taught_each_other_is_a_network_of_one(
    drawn_folder: Path, tmp_path: Path
) -> None:
    mutual = dataclasses.replace(
        POSE, stages=(Stage(1, 64, 64, batch=8),), distillation="mutual", fau="mean", unlabelled_weight=0.5
    )
    thin = slim(run(mutual, drawn_folder, tmp_path), "b")
    save_checkpoint(tmp_path / "thin.pt", thin)
    recipe, _ = restore(load_checkpoint(tmp_path / "thin.pt"))
    assert [branch.name for branch in recipe.branches] == ["b"]


def test_checkpoint_of_another_recipe_is_not_resumed(drawn_folder: Path, tmp_path: Path) -> None:
    run(POSE, drawn_folder, tmp_path, max_hours=0.0)
    with pytest.raises(CheckpointError, match="belongs to another recipe"):
        run(dataclasses.replace(POSE, seed=1), drawn_folder, tmp_path)


def test_a_run_is_not_resumed_under_another_start_than_its_own(
    drawn_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It would silently go on with the weights it has."""
    short = dataclasses.replace(POSE, stages=(Stage(1, 64, 64, batch=8),))
    first, second, begun = (tmp_path / name / "last.pt" for name in ("first", "second", "begun"))
    run(short, drawn_folder, first.parent)
    run(dataclasses.replace(short, seed=1), drawn_folder, second.parent)
    with pytest.raises(CheckpointError, match="was started from no checkpoint"):
        run(short, drawn_folder, first.parent, start=Start(second))
    run(short, drawn_folder, begun.parent, start=Start(first))
    with pytest.raises(CheckpointError, match=r'was started from another checkpoint \(of "tiny pose"\)'):
        run(short, drawn_folder, begun.parent, start=Start(second))
    caplog.clear()
    caplog.set_level("INFO")
    run(short, drawn_folder, begun.parent, start=Start(first))  # the same command
    run(short, drawn_folder, begun.parent)  # or a shorter one
    assert "resumed" in caplog.text
    assert "started" not in caplog.text
    first.write_bytes(second.read_bytes())
    with pytest.raises(CheckpointError, match="was started from another checkpoint"):
        run(short, drawn_folder, begun.parent, start=Start(first))


def test_encoder_can_start_from_another_tasks_checkpoint_and_the_log_says_so(
    drawn_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    pose = run(POSE, drawn_folder, tmp_path / "pose", max_hours=0.0)
    frozen = dataclasses.replace(DETECTOR, learning_rate=1e-9, ema_decay=0.0)
    detector = run(
        frozen, drawn_folder, tmp_path / "detector", max_hours=0.0, start=Start(tmp_path / "pose" / "last.pt")
    )
    sizes, whole = ({name: value.shape for name, value in content["model"].items()} for content in (pose, detector))
    shared = sizes.items() & whole.items()
    assert f"started with {len(shared)} of {len(whole)} weights from" in caplog.text
    assert "which is of another task: a pose network's, this is a detector's" in caplog.text
    name = "trunk.stages.0.0.conv3x3"
    torch.testing.assert_close(detector["model"][name], pose["ema"][name], rtol=1e-4, atol=1e-6)


def test_a_deeper_network_begins_as_the_shallower_one(tmp_path: Path) -> None:
    shallow, deep = (
        dataclasses.replace(POSE, encoder=dataclasses.replace(POSE.encoder, depths=depths, cross_stage=True))
        for depths in ((0, 0, 2, 2, 0), (0, 0, 6, 4, 0))
    )
    torch.manual_seed(0)
    before, after = build_network(shallow).eval(), build_network(deep).eval()
    content = {"recipe": dataclasses.asdict(shallow), "model": {}, "ema": before.state_dict()}
    save_checkpoint(tmp_path / "shallow.pt", content)
    start_from(after, "pose", tmp_path / "shallow.pt")
    images = torch.rand(2, 3, 64, 64) * 255
    torch.testing.assert_close(after(images).branches["a"].final, before(images).branches["a"].final)


def test_a_checkpoint_remembers_every_run_that_it_started_from(drawn_folder: Path, tmp_path: Path) -> None:
    assert run(POSE, drawn_folder, tmp_path / "first", max_hours=0.0)["before"] == []
    first, second = tmp_path / "first" / "last.pt", tmp_path / "second" / "last.pt"
    run(dataclasses.replace(POSE, name="more"), drawn_folder, tmp_path / "second", max_hours=0.0, start=Start(first))
    third = run(POSE, drawn_folder, tmp_path / "third", max_hours=0.0, start=Start(second))
    assert [(past["recipe"], past["epochs"]) for past in third["before"]] == [(POSE.name, 1), ("more", 1)]
    assert third["before"][1]["sha256"] == hashlib.sha256(second.read_bytes()).hexdigest()
    assert run(POSE, drawn_folder, tmp_path / "third")["before"] == third["before"]  # resumed


def test_a_writer_that_fails_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"recipe": {}, "model": {"w": torch.ones(3)}})
    with pytest.raises(Exception, match="pickle"):
        save_checkpoint(path, {"recipe": {}, "model": {"w": lambda: None}})
    assert torch.equal(load_checkpoint(path)["model"]["w"], torch.ones(3))
    assert os.listdir(tmp_path) == ["last.pt"]


@pytest.mark.parametrize("limit", [1000, 100_000, 400_500])
def test_a_full_disk_is_named_with_the_file_and_leaves_the_old_one(tmp_path: Path, limit: int) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"recipe": {}, "model": {"w": torch.ones(3)}})
    with disk_of(limit), pytest.raises(OSError) as caught:
        save_checkpoint(path, {"recipe": {}, "model": {"w": torch.ones(100_000)}})
    assert str(caught.value) == f"[Errno {errno.EFBIG}] File too large: '{path}'"
    assert torch.equal(load_checkpoint(path)["model"]["w"], torch.ones(3))
    assert os.listdir(tmp_path) == ["last.pt"]


def test_another_writer_of_the_same_checkpoint_does_not_spoil_it(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"

    class Meanwhile(OrderedDict[str, int]):
        """Written half-way through a checkpoint, and another process has written one by then."""

        def __reduce__(self) -> tuple[Any, ...]:
            save_checkpoint(path, {"recipe": {}, "model": {"w": torch.zeros(3)}})
            assert torch.equal(load_checkpoint(path)["model"]["w"], torch.zeros(3))
            return OrderedDict, ()

    save_checkpoint(path, {"recipe": Meanwhile(), "model": {"w": torch.ones(3)}})
    assert torch.equal(load_checkpoint(path)["model"]["w"], torch.ones(3))
    assert os.listdir(tmp_path) == ["last.pt"]


def test_a_folder_that_a_run_writes_to_is_refused_to_another(drawn_folder: Path, tmp_path: Path) -> None:
    with alone_in(tmp_path):
        with pytest.raises(CheckpointError, match=f"^{tmp_path}: another run is writing here; wait for it, or choose "):
            run(SHORT, drawn_folder, tmp_path)
    assert run(SHORT, drawn_folder, tmp_path)["epoch"] == 1


def test_a_killed_run_holds_nothing_and_leaves_no_litter(tmp_path: Path) -> None:
    holding = (
        "import pathlib, sys, training.checkpoint as c\nwith c.alone_in(pathlib.Path(sys.argv[1])): print(), input()"
    )
    command = [sys.executable, "-u", "-c", holding, tmp_path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"\n"
        with pytest.raises(CheckpointError, match="another run is writing here"), alone_in(tmp_path):
            pass
        (tmp_path / "last.0123abcd.partial").touch()
        holder.kill()
    with alone_in(tmp_path):
        assert os.listdir(tmp_path) == [".lock"]


def test_of_several_processes_of_one_run_the_first_alone_takes_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with alone_in(tmp_path):
        monkeypatch.setenv("RANK", "1")
        with alone_in(tmp_path):
            pass


def test_on_a_filesystem_without_locks_a_run_goes_on_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with caplog.at_level(logging.WARNING), alone_in(tmp_path):
        assert f"{tmp_path}: cannot be locked (Operation not supported): start no other run with it" in caplog.text


@pytest.mark.parametrize("content", [b"", b"not a checkpoint"])
def test_something_else_than_a_checkpoint_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "odd.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="odd.pt: not a readable checkpoint"):
        load_checkpoint(path)
