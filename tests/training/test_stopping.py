"""Signals while a network learns: nothing is lost, whatever waits for the whole of it does not go on."""

import dataclasses
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import POSE, run

from training.checkpoint import load_checkpoint
from training.config import Stage
from training.pose_task import PoseTask
from training.stopping import Stopped


def test_a_run_stopped_in_the_middle_of_an_epoch_goes_on_there(
    drawn_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(POSE, drawn_folder, tmp_path / "whole")
    steps, per_epoch, done, losses = iter(range(1, 100)), 3, [], PoseTask.losses

    def signalled(*arguments: Any) -> Any:
        if next(steps) in (2, 5, 6):
            signal.raise_signal(signal.SIGTERM)
        return losses(*arguments)

    monkeypatch.setattr(PoseTask, "losses", signalled)
    for _ in range(3):
        with pytest.raises(Stopped):
            run(POSE, drawn_folder, tmp_path / "parts")
        part = load_checkpoint(tmp_path / "parts" / "last.pt")
        done.append(part["epoch"] * per_epoch + part["step"])
    assert done == [2, 5, 6]
    last = run(POSE, drawn_folder, tmp_path / "parts")
    for kind in ("model", "ema"):
        for name, value in whole[kind].items():
            torch.testing.assert_close(last[kind][name], value, rtol=0, atol=0, msg=name)
    assert last["history"] == whole["history"]


def test_a_signal_in_the_last_evaluation_is_told_and_later_ones_are_no_longer_the_runs(
    drawn_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once, evaluate = dataclasses.replace(POSE, stages=(Stage(1, 64, 64, batch=8),)), PoseTask.evaluate
    heard: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _frame: heard.append(number))

    def signalled(*arguments: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        return evaluate(*arguments)

    monkeypatch.setattr(PoseTask, "evaluate", signalled)
    with pytest.raises(Stopped) as stopped:
        run(once, drawn_folder, tmp_path)
    assert stopped.value.code == 130
    assert load_checkpoint(tmp_path / "last.pt")["epoch"] == 1
    assert heard == []
    signal.raise_signal(signal.SIGINT)
    assert heard == [signal.SIGINT]


def test_sigterm_saves_and_ends_the_run_cleanly_with_a_code_that_stops_what_waits_for_it(
    drawn_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "r.toml").write_text(
        'name = "x"\ntask = "pose"\n[encoder]\nwidths = [8, 8, 8, 8, 8]\n'
        "[[stages]]\nepochs = 99999\nheight = 64\nwidth = 64\nbatch = 4\n"
    )
    command = [sys.executable, "-m", "app.cli", "train", tmp_path / "r.toml", "--data", drawn_folder, "--out", tmp_path]
    command += ["--amp", "off", "--device", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        said = ""
        while "epoch 2/" not in said:
            said += process.stderr.read(1)
        process.send_signal(signal.SIGTERM)
        said += process.stderr.read()
        printed = process.stdout.read()
    assert process.returncode == 128 + signal.SIGTERM, said
    assert printed.splitlines()[-1] == str(tmp_path / "last.pt")
    assert "Traceback" not in said
    assert re.search(r"^epoch 1/99999  mse/a 0\.\d+ .*  held-out oks_share: a \d", said, flags=re.MULTILINE), said
    stopped = re.search(r"stopped after step (\d+) of epoch (\d+)", said)
    assert stopped is not None, said
    content = load_checkpoint(tmp_path / "last.pt")
    assert (content["step"], content["epoch"] + 1) == (int(stopped[1]), int(stopped[2]))
    assert content["step"] > 0
