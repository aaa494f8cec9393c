"""Loading, choosing a provider, running; networks of our own make and of others."""

import hashlib
import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import tiny
from serving import picture

from app.engine import Engine, available_cpus, buckets
from app.errors import ModelError, StartError
from app.models import DetectorNetwork, PoseNetwork, decode_heatmaps, decode_simcc
from app.pipeline import Pipeline
from app.settings import Settings

CROP = picture(*tiny.CROP_WH, boxes=((20, 30, 28, 34),))
CROP_MIDDLE = (24.0, 32.0)


def test_a_path_that_cannot_be_looked_at_stops_the_start_with_the_reason() -> None:
    path = Path("x" * 300 + ".onnx")
    with pytest.raises(StartError, match=r"xx\.onnx: File name too long"):
        Engine(path, provider="cpu")


@pytest.mark.parametrize("max_batch, expected", [(1, (1,)), (2, (1, 2)), (6, (1, 2, 4, 6)), (16, (1, 2, 4, 8, 16))])
def test_buckets_double_up_to_the_largest(max_batch: int, expected: tuple[int, ...]) -> None:
    assert buckets(max_batch) == expected


def test_the_provider_told_is_the_one_that_runs(tiny_models: dict[str, Path]) -> None:
    engine = Engine(tiny_models["pose_model"], provider="cpu")
    assert engine.provider == "cpu"
    assert engine.inputs[0].shape == (None, 64, 48, 3) and engine.inputs[0].dtype == "uint8"


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_gpu_asked_for_but_absent_stops_the_start(tiny_models: dict[str, Path], provider: str) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    with pytest.raises(StartError, match=f"{provider} was asked for"):
        Engine(tiny_models["pose_model"], provider=provider)


@pytest.mark.filterwarnings("ignore:Specified provider:UserWarning")
def test_a_gpu_that_is_installed_but_does_not_start_is_not_silently_replaced(
    tiny_models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime falls back to the CPU with no more than a warning."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    with pytest.raises(StartError, match="offers only cpu"):
        Engine(tiny_models["pose_model"], provider="cuda")
    assert Engine(tiny_models["pose_model"], provider="auto").provider == "cpu"


def test_auto_takes_what_there_is(tiny_models: dict[str, Path]) -> None:
    gpu = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    assert Engine(tiny_models["pose_model"], provider="auto").provider in (("cuda", "cpu") if gpu else ("cpu",))


def test_a_missing_or_broken_file_stops_the_start_in_one_line(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a network")
    for path in (tmp_path / "absent.onnx", broken):
        with pytest.raises(StartError, match=path.name) as stopped:
            Engine(path)
        assert "\n" not in str(stopped.value)


def test_a_batch_of_any_size_gives_what_singles_give(tiny_models: dict[str, Path]) -> None:
    engine = Engine(tiny_models["pose_model"], provider="cpu", max_batch=4)
    batch = np.random.default_rng(0).integers(0, 256, (11, 64, 48, 3), np.uint8)
    together = engine.run(batch)
    for index in range(11):
        alone = engine.run(batch[index : index + 1])
        for name in together:
            np.testing.assert_allclose(together[name][index], alone[name][0], rtol=1e-5)


def test_a_failing_run_is_our_error_and_the_next_one_works(tiny_models: dict[str, Path]) -> None:
    engine = Engine(tiny_models["pose_model"], provider="cpu")
    with pytest.raises(ModelError):
        engine.run(np.zeros((1, 5, 5, 3), np.uint8))
    assert engine.run(np.zeros((1, 64, 48, 3), np.uint8))["keypoints"].shape == (1, 17, 2)


def test_at_least_one_cpu_is_available() -> None:
    assert available_cpus() >= 1


def test_both_networks_use_as_many_threads_as_the_operator_says(tiny_models: dict[str, Path]) -> None:
    threads = available_cpus() + 1
    pipeline = Pipeline(Settings(provider="cpu", intra_op_threads=threads, **tiny_models))  # type: ignore[arg-type]
    for network in pipeline.networks.values():
        assert network.engine._session.get_session_options().intra_op_num_threads == threads


def test_our_own_pose_file_gives_keypoints_in_crop_pixels(tiny_models: dict[str, Path]) -> None:
    network = PoseNetwork(Engine(tiny_models["pose_model"], provider="cpu"))
    network.warm()
    (pose,) = network.run([CROP])
    np.testing.assert_allclose(pose.keypoints[0], CROP_MIDDLE, atol=1e-4)
    np.testing.assert_allclose(pose.keypoints[1:], tiny.FRACTIONS[1:] * tiny.CROP_WH, rtol=1e-5)
    np.testing.assert_allclose(pose.scores, tiny.POSE_SCORE)


def test_our_own_detector_file_gives_boxes_in_its_input_s_pixels(tiny_models: dict[str, Path]) -> None:
    network = DetectorNetwork(Engine(tiny_models["detector_model"], provider="cpu"))
    network.warm()
    found = network.run([picture(64, 64, boxes=((40, 10, 50, 30),))])[0]
    assert found.scores.tolist() == pytest.approx([0, tiny.DETECTOR_SCORE])  # its halves, the left one is empty
    assert found.boxes_xyxy[1].tolist() == [40, 10, 50, 30]


@pytest.mark.parametrize("card, mean, std", [
    ({}, 114.0, 57.0),  # roughly ImageNet's, which is what a float input gets by default
    ({"input": {"mean": [10, 10, 10], "std": [50, 50, 50]}}, 10.0, 50.0),
])  # fmt: skip
def test_a_simcc_file_is_normalised_and_decoded(
    tmp_path: Path, card: dict[str, object], mean: float, std: float
) -> None:
    path = tiny.make_simcc(tmp_path / "rtmpose.onnx", mean=mean, std=std)
    path.with_suffix(".json").write_text(json.dumps(card))
    network = PoseNetwork(Engine(path, provider="cpu"))
    network.warm()
    spot = picture(*tiny.CROP_WH, boxes=((20, 30, 21, 31),))
    (pose,) = network.run([spot])
    np.testing.assert_allclose(pose.keypoints, np.tile([20.5, 30.5], (17, 1)))  # the middle of the bright pixel
    np.testing.assert_allclose(pose.scores, 1.0, atol=0.06)


def test_a_heatmap_file_is_decoded_between_its_cells(tmp_path: Path) -> None:
    path = tiny.make_heatmap(tmp_path / "hrnet.onnx")
    path.with_suffix(".json").write_text(json.dumps({"input": {"mean": [0, 0, 0], "std": [255, 255, 255]}}))
    network = PoseNetwork(Engine(path, provider="cpu"))
    network.warm()
    (pose,) = network.run(
        [picture(*tiny.CROP_WH, boxes=((19, 28, 25, 32),))]
    )  # symmetric about x = 22: cell 5's middle
    np.testing.assert_allclose(pose.keypoints, np.tile([22.0, 30.0], (17, 1)), atol=0.01)


def test_heatmap_peaks_are_found_to_a_fraction_of_a_cell() -> None:
    rng = np.random.default_rng(3)
    true = rng.uniform((6, 6), (42, 58), (5, 17, 2)) / 4  # cells of a 12 x 16 map
    rows, columns = np.mgrid[:16, :12] + 0.5
    distance = (columns - true[..., :1, None]) ** 2 + (rows - true[..., 1:, None]) ** 2
    keypoints, scores = decode_heatmaps(np.exp(-distance / (2 * 2.0**2)), (48, 64))
    np.testing.assert_allclose(keypoints, true * 4, atol=0.15)
    assert (scores > 0.9).all()


def test_a_peak_at_the_border_or_a_flat_map_stays_inside() -> None:
    heatmaps = np.zeros((1, 2, 16, 12), np.float32)
    heatmaps[0, 0, 0, 11] = 1
    keypoints, scores = decode_heatmaps(heatmaps, (48, 64))
    assert (keypoints >= 0).all() and (keypoints <= (48, 64)).all() and scores.tolist() == [[1, 0]]


def test_simcc_scores_are_the_lower_peak() -> None:
    x, y = np.zeros((1, 17, 96), np.float32), np.zeros((1, 17, 128), np.float32)
    x[..., 10], y[..., 21] = 0.9, 0.4
    keypoints, scores = decode_simcc(x, y, (48, 64))
    np.testing.assert_allclose(keypoints, np.tile([5.5, 11.0], (1, 17, 1)))
    np.testing.assert_allclose(scores, 0.4)


def test_a_network_of_another_kind_stops_the_start(tmp_path: Path, tiny_models: dict[str, Path]) -> None:
    with pytest.raises(StartError, match="none of"):
        PoseNetwork(Engine(tiny_models["detector_model"], provider="cpu")).warm()
    with pytest.raises(StartError, match="a detector gives boxes"):
        DetectorNetwork(Engine(tiny_models["pose_model"], provider="cpu")).warm()
    with pytest.raises(StartError, match="17 keypoints are needed"):
        PoseNetwork(Engine(tiny.make_heatmap(tmp_path / "hands.onnx", points=21), provider="cpu")).warm()


def test_a_model_card_that_is_no_json_object_stops_the_start(tmp_path: Path) -> None:
    path = tiny.make_pose(tmp_path / "pose.onnx")
    for text in ("{", "[]"):
        path.with_suffix(".json").write_text(text)
        with pytest.raises(StartError, match=r"pose\.json"):
            PoseNetwork(Engine(path, provider="cpu"))


def test_a_model_card_of_another_file_is_not_believed(tmp_path: Path) -> None:
    path = tiny.make_detector(tmp_path / "detector.onnx")
    card = path.with_suffix(".json")
    card.write_text(json.dumps({"name": "mine", "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}))
    assert DetectorNetwork(Engine(path, provider="cpu")).name == "mine"
    card.write_text(json.dumps({"name": "mine", "sha256": "0" * 64}))
    with pytest.raises(StartError) as stopped:
        DetectorNetwork(Engine(path, provider="cpu"))
    assert str(stopped.value) == f"{card}: is of another file than detector.onnx: export again, or delete this card"


def test_the_detectors_card_sets_its_threshold(tmp_path: Path) -> None:
    path = tiny.make_detector(tmp_path / "detector.onnx")
    assert DetectorNetwork(Engine(path, provider="cpu")).min_score == DetectorNetwork.DEFAULT_MIN_SCORE
    path.with_suffix(".json").write_text('{"min_score": 0.42}')
    assert DetectorNetwork(Engine(path, provider="cpu")).min_score == 0.42
