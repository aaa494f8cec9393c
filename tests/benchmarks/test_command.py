"""What the benchmarks say to those who call them wrongly."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import large_pictures, nobody, tracking
from benchmarks.training import PlainPeople, made_up


def status(benchmark: Callable[[], None], *arguments: str, monkeypatch: pytest.MonkeyPatch) -> int | str | None:
    """The exit status of a benchmark that ends before it has measured anything."""
    monkeypatch.setattr(sys, "argv", ["benchmark", *arguments])
    with pytest.raises(SystemExit) as end:
        benchmark()
    return end.value.code


def test_what_a_benchmark_cannot_read_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    film = tmp_path / "absent.mp4"
    assert status(tracking.main, "--video", str(film), monkeypatch=monkeypatch) == 2
    wanted = "a film of at least two frames was expected, OpenCV reads 0"
    assert capsys.readouterr().err == f"okdhp: {film}: {wanted}\n"


def test_an_unknown_setting_stops_a_benchmark(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("POSE_TILEZ", "3")
    assert status(tracking.main, "--frames", "60", monkeypatch=monkeypatch) == 2
    assert capsys.readouterr().err == "okdhp: unknown setting POSE_TILEZ\n"


@pytest.mark.parametrize(("benchmark", "arguments", "complaint"), [
    (large_pictures.main, ["--data", "any", "--scenes", "0"], "argument --scenes: at least 1, got 0"),
    (nobody.main, ["--enlarged", "nan"], "argument --enlarged: at least 0.1, got nan"),
])  # fmt: skip
def test_too_little_of_anything_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    benchmark: Callable[[], None],
    arguments: list[str],
    complaint: str,
) -> None:
    assert status(benchmark, *arguments, monkeypatch=monkeypatch) == 2
    assert capsys.readouterr().err.endswith(f"error: {complaint}\n")


def test_an_interpreter_without_mediapipe_is_told_what_it_lacks(tmp_path: Path) -> None:
    theirs = tracking.MediaPipe(sys.executable, tmp_path / "frames.npy")
    theirs.process.wait()
    with pytest.raises(ValueError, match="does it have mediapipe"):
        theirs.turn(0)
    theirs.process.communicate()  # which closes its pipes


def test_the_plain_loader_passes_over_people_without_keypoints(tmp_path: Path) -> None:
    path = made_up(tmp_path / "people", 3) / "train.json"
    content = json.loads(path.read_text())
    del content["annotations"][0]["keypoints"]
    content["annotations"][1]["keypoints"] = [0] * 51
    path.write_text(json.dumps(content))
    assert len(PlainPeople(path.parent, (64, 64))) == 1


def test_the_plain_loader_says_which_layout_it_needs(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()  # COCO's own
    with pytest.raises(ValueError, match="needs images/ and train.json"):
        PlainPeople(tmp_path, (64, 64))
