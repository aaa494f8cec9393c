"""`okdhp quantize`: integers where they save time, the same answers, and clear refusals."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from commandline import okdhp, refused
from onnx import numpy_helper
from typer.testing import CliRunner

from app.cli import app
from app.digest import sha256
from training.data import Dataset
from training.datasets import load_dataset
from training.quantising import inputs


@pytest.mark.parametrize("task", ["pose", "detector"])
def test_quantised_file_has_integer_convolutions_and_finds_the_same(
    trained: Path, drawn_folder: Path, task: str
) -> None:
    whole, small = trained / f"{task}.onnx", trained / f"{task}-int8.onnx"
    okdhp("quantize", whole, small, "--data", drawn_folder, "--pictures", "30")
    graph = onnx.load(str(small)).graph
    made_by = {name: node.op_type for node in graph.node for name in node.output}
    inputs = [made_by.get(node.input[1], "") for node in graph.node if node.op_type == "Conv"]
    heads = inputs.count("")
    assert heads == {"pose": 1, "detector": 2}[task]
    assert set(inputs) == {"", "DequantizeLinear"}
    card, before = (json.loads(path.with_suffix(".json").read_text()) for path in (small, whole))
    assert card["sha256"] == sha256(small)
    assert card["precision"] == "int8 (QDQ), from 24 pictures of train"  # all that there are
    assert {key: card[key] for key in ("input", "keypoints", "branch")} == {
        key: before[key] for key in ("input", "keypoints", "branch")
    }
    (score,) = {"pose": ["oks_share/all"], "detector": ["recall_at_0.3_false"]}[task]
    assert card["scores"][score] == pytest.approx(before["scores"][score], abs=0.1)


def test_weights_have_seven_bits_and_a_scale_for_each_channel(
    trained: Path, drawn_folder: Path, tmp_path: Path
) -> None:
    """With eight the products of CPUs without VNNI overflow."""
    okdhp("quantize", trained / "pose.onnx", tmp_path / "small.onnx", "--data", drawn_folder, "--pictures", "4")
    graph = onnx.load(str(tmp_path / "small.onnx")).graph
    values = {constant.name: numpy_helper.to_array(constant) for constant in graph.initializer}
    found = [
        (values[node.input[0]], values[node.input[1]])
        for node in graph.node
        if node.op_type == "DequantizeLinear" and values.get(node.input[0], np.zeros(0)).ndim == 4
    ]
    assert found
    for weights, scales in found:
        assert weights.dtype == np.int8 and abs(weights.astype(int)).max() <= 64
        assert scales.shape == weights.shape[:1]


def test_ranges_come_of_everybody_for_a_pose_network_and_of_every_picture_for_a_detector(drawn_folder: Path) -> None:
    dataset = load_dataset(drawn_folder, "train")
    assert [len(list(inputs(task, dataset, (96, 64)))) for task in ("pose", "detector")] == [36, 24]


def test_what_the_card_scores_are_the_integers_on_val(
    trained: Path, drawn_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scores_of(path: Path, task: str, dataset: Dataset) -> dict[str, float]:
        integers = sum(node.op_type == "QuantizeLinear" for node in onnx.load(str(path)).graph.node)
        return {"pictures": len(dataset.pictures), "in integers": integers > 0}

    monkeypatch.setattr("training.quantising.scores_of", scores_of)
    okdhp("quantize", trained / "pose.onnx", tmp_path / "small.onnx", "--data", drawn_folder, "--pictures", "4")
    card = json.loads((tmp_path / "small.json").read_text())
    assert card["scores"] == {"pictures": 24, "in integers": True}


def test_a_file_without_a_card_is_not_quantised(trained: Path, drawn_folder: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare.onnx"
    bare.write_bytes((trained / "pose.onnx").read_bytes())
    result = CliRunner().invoke(app, ["quantize", str(bare), str(tmp_path / "o.onnx"), "--data", str(drawn_folder)])
    assert result.exit_code == 2
    assert "has no model card that names its task" in result.output


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("pose.onnx", "need a name of their own"),
        ("pose.int8", "need a name of their own"),  # its card would be pose.json
        ("pose/../pose.onnx", "need a name of their own"),
        ("small.json", "call it small.onnx"),
        ("small.pt", "call it small.onnx"),
    ],
)
def test_neither_the_file_nor_its_card_is_written_over(trained: Path, drawn_folder: Path, name: str, why: str) -> None:
    before = {path: path.read_bytes() for path in trained.glob("pose.*") if path.is_file()}
    line = refused("quantize", trained / "pose.onnx", trained / name, "--data", drawn_folder)
    assert why in line
    assert {path: path.read_bytes() for path in before} == before
    assert not (trained / "small.json").exists()


def test_a_file_with_integers_is_not_quantised_again_and_nothing_is_left_of_the_try(
    trained: Path, drawn_folder: Path, tmp_path: Path
) -> None:
    whole, small, again = trained / "detector.onnx", tmp_path / "small.onnx", tmp_path / "again.onnx"
    okdhp("quantize", whole, small, "--data", drawn_folder, "--pictures", "4")
    card = json.loads(small.with_suffix(".json").read_text())
    assert (card["precision"], card["file"]) == ("int8 (QDQ), from 4 pictures of train", "small.onnx")
    line = refused("quantize", small, again, "--data", tmp_path)  # said before any picture is looked for
    assert line == f"okdhp: {small}: has integer convolutions already; quantize the file that it was made of"
    assert not list(tmp_path.glob("again*"))


@pytest.mark.parametrize(("error", "complaint"), [
    (RuntimeError("no such type\nand where"), "PATH: cannot be quantized: no such type"),
    (OSError(28, "No space left on device"), "[Errno 28] No space left on device"),
])  # fmt: skip
def test_what_the_quantiser_cannot_do_and_a_full_disk_are_told_apart_in_one_line(
    trained: Path, drawn_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, complaint: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("training.quantising.quantize_static", fail)
    line = refused("quantize", trained / "pose.onnx", tmp_path / "small.onnx", "--data", drawn_folder)
    assert line == f"okdhp: {complaint}".replace("PATH", str(trained / "pose.onnx"))
    assert not list(tmp_path.iterdir())


def test_a_broken_card_is_named(trained: Path, drawn_folder: Path, tmp_path: Path) -> None:
    shutil.copy(trained / "pose.onnx", tmp_path / "pose.onnx")
    (tmp_path / "pose.json").write_text("{")
    line = refused("quantize", tmp_path / "pose.onnx", tmp_path / "small.onnx", "--data", drawn_folder)
    assert f"{tmp_path}/pose.json: this model card is not JSON" in line
