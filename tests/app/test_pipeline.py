"""Pictures to people: mapping, thresholds, duplicates, deadlines."""

import asyncio
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny
from serving import encoded, picture, with_pipeline

from app.errors import BadImage, DeadlinePassed, Draining, StartError
from app.pipeline import Options, Pipeline
from app.scoring import person_scores
from app.settings import Settings
from app.sightings import person_boxes

BOX = np.array([0, 0, 100, 100], np.float32)


@pytest.mark.parametrize("width, height", [(120, 90), (90, 160), (640, 480), (3000, 2000), (33, 70)])
def test_boxes_and_noses_come_back_in_picture_pixels(tiny_models: dict[str, Path], width: int, height: int) -> None:
    box = (width // 8, height // 4, width * 3 // 8, height * 3 // 4)
    image = picture(width, height, boxes=(box,))

    async def use(pipeline: Pipeline) -> None:
        found = await pipeline.detect(image, max_people=5)
        cell = max(width, height) / tiny.DETECTOR_SIDE  # a pixel of the detector's input
        np.testing.assert_allclose(found.boxes_xyxy, [box], atol=cell + 1)
        poses = await pipeline.pose(image, np.array([box], np.float32))
        middle = [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2]
        np.testing.assert_allclose(poses.keypoints[0, 0], middle, atol=max(1, cell / 2))

    with_pipeline(tiny_models, use)


def test_detections_stay_inside_the_picture(tiny_models: dict[str, Path]) -> None:
    image = picture(50, 80, boxes=((0, 0, 20, 80),))
    found = with_pipeline(tiny_models, lambda pipeline: pipeline.detect(image, max_people=5))
    assert (found.boxes_xyxy >= 0).all() and (found.boxes_xyxy <= [50, 80, 50, 80]).all()


def test_a_threshold_of_zero_invents_nobody(tiny_models: dict[str, Path]) -> None:
    """The tiny detector's empty half gives a box turned inside out with score 0."""
    image = picture(boxes=((10, 20, 34, 70),))
    found = with_pipeline(tiny_models, lambda pipeline: pipeline.detect(image, min_score=0.0, max_people=5))
    assert len(found.boxes_xyxy) == 1


def test_no_boxes_give_no_poses(tiny_models: dict[str, Path]) -> None:
    nobody = np.empty((0, 4), np.float32)
    poses = with_pipeline(tiny_models, lambda pipeline: pipeline.pose(picture(), nobody))
    assert poses.keypoints.shape == (0, 17, 2) and poses.scores.shape == (0, 17)


def test_who_finds_no_room_waits_no_longer_than_its_deadline(tiny_models: dict[str, Path]) -> None:
    async def use(pipeline: Pipeline) -> None:
        pipeline._pose._room._free = 0  # as if others held it
        with pytest.raises(DeadlinePassed):
            await pipeline.pose(picture(), BOX[None], deadline=asyncio.get_running_loop().time() + 0.05)

    with_pipeline(tiny_models, use)


def pose_network_scoring_by_brightness(path: Path) -> Path:
    """A pose network whose every keypoint has the brightest pixel's share of white as its score."""
    graph, (width, height) = tiny.Graph(), tiny.CROP_WH
    level = graph("ReduceMax", graph("Cast", "crops", to=onnx.TensorProto.FLOAT), [1, 2, 3], keepdims=0)  # (N,)
    score = graph("Unsqueeze", graph("Mul", level, 1 / 255), [1])  # (N, 1)
    graph("Mul", score, np.ones((1, 17), np.float32), name="scores")
    places = tiny.FRACTIONS[None] * np.float32([width, height])  # (1, 17, 2)
    graph("Add", graph("Mul", graph("Unsqueeze", score, [2]), 0.0), places, name="keypoints")
    outputs: list[tuple[str, list[object]]] = [("keypoints", ["N", 17, 2]), ("scores", ["N", 17])]
    return graph.save(path, tiny.bytes_input("crops", width, height), outputs)


def test_max_people_keeps_the_surest_by_the_final_score(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    """The detector gives the left person first; the pose network is surer of the right one."""
    models = {**tiny_models, "pose_model": pose_network_scoring_by_brightness(tmp_path / "pose.onnx")}
    image = picture(120, 90, boxes=((10, 20, 34, 70), (80, 12, 104, 60)))
    image[:, :60] = image[:, :60].clip(0, 220)

    async def use(pipeline: Pipeline) -> None:
        full = (await pipeline.people(image, Options(5))).people
        (surest,) = (await pipeline.people(image, Options(1))).people
        assert len(full) == 2 and full[0].score > full[1].score
        assert surest.score == full[0].score and surest.box_xyxy.tolist() == full[0].box_xyxy.tolist()

    with_pipeline(models, use)


def test_a_found_person_s_box_heeds_the_skeleton_and_a_given_one_does_not(tiny_models: dict[str, Path]) -> None:
    image = picture(boxes=((10, 20, 34, 70),))

    async def use(pipeline: Pipeline) -> None:
        detected = (await pipeline.detect(image, max_people=1)).boxes_xyxy
        pose = await pipeline.pose(image, detected)
        (found,) = (await pipeline.people(image, Options(1, min_score=0.0))).people
        expected = person_boxes(detected, pose.keypoints, pose.scores, image.shape[1::-1])
        assert found.box_xyxy.tolist() == expected[0].tolist() != detected[0].tolist()
        (given,) = (await pipeline.people(image, Options(1, boxes_xyxy=detected))).people
        assert given.box_xyxy.tolist() == detected[0].tolist()

    with_pipeline(tiny_models, use)


def test_whom_no_pose_could_make_sure_enough_costs_none(tiny_models: dict[str, Path]) -> None:
    image = picture(boxes=((10, 20, 34, 70),))
    settings = Settings(provider="cpu", min_score=tiny.DETECTOR_SCORE + 0.01, **tiny_models)  # type: ignore[arg-type]

    async def use() -> None:
        pipeline = Pipeline(settings)
        await pipeline.warm()
        assert (await pipeline.people(image, Options(1))).timing_ms["pose"] == 0.0
        surer = Options(1, min_score=tiny.DETECTOR_SCORE - 0.01)
        assert (await pipeline.people(image, surer)).timing_ms["pose"] > 0.0
        await pipeline.close()

    asyncio.run(use())


def test_a_deadline_in_the_past_stops_each_stage(tiny_models: dict[str, Path]) -> None:
    async def use(pipeline: Pipeline) -> None:
        past = asyncio.get_running_loop().time() - 1
        with pytest.raises(DeadlinePassed):
            await pipeline.detect(picture(), max_people=5, deadline=past)
        with pytest.raises(DeadlinePassed):
            await pipeline.pose(picture(), BOX[None], deadline=past)
        with pytest.raises(DeadlinePassed):
            await pipeline.people(picture(), Options(5), past)
        assert (await pipeline.people(picture(), Options(5))).people == ()

    with_pipeline(tiny_models, use)


def test_a_closed_pipeline_refuses_work_and_is_not_ready(tiny_models: dict[str, Path]) -> None:
    async def use(pipeline: Pipeline) -> None:
        assert pipeline.ready
        with pytest.raises(BadImage):
            await pipeline.opened(b"").__aenter__()
        await pipeline.close()
        assert not pipeline.ready and pipeline.draining
        with pytest.raises(Draining):
            await pipeline.opened(encoded(picture())).__aenter__()

    with_pipeline(tiny_models, use)


def test_it_is_not_ready_before_it_is_warm(tiny_models: dict[str, Path]) -> None:
    async def use() -> None:
        pipeline = Pipeline(Settings(provider="cpu", **tiny_models))  # type: ignore[arg-type]
        assert not pipeline.ready
        await pipeline.close()

    asyncio.run(use())


def test_networks_in_each_others_place_stop_the_start(tiny_models: dict[str, Path]) -> None:
    swapped = {"pose_model": tiny_models["detector_model"], "detector_model": tiny_models["pose_model"]}
    with pytest.raises(StartError, match="a detector gives boxes"):
        with_pipeline(swapped, lambda pipeline: pipeline.detect(picture(), max_people=1))


def test_a_persons_score_is_the_detectors_times_the_mean_of_the_keypoints() -> None:
    scores = np.full((1, 17), 0.5, np.float32)
    assert person_scores(scores).tolist() == [0.5]
    assert person_scores(scores, np.float32([0.8])).tolist() == pytest.approx([0.4])
