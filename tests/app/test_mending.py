"""Boxes mended by the pose network: from crop pixels to the picture's, and what they do to what the detector said."""

from pathlib import Path

import numpy as np
import pytest
import tiny
from serving import picture, with_pipeline

from app.engine import Engine
from app.errors import StartError
from app.following import Follower
from app.geometry import crop_matrix
from app.mending import GOOD_FIT, Mended, mended_boxes
from app.models import CropPose, PoseNetwork
from app.pipeline import Options, Pipeline
from app.scoring import person_scores
from app.settings import Settings
from app.sightings import Regions
from app.tracking import TrackedPerson

CROP_WH = (48, 64)
GIVEN = np.array([[10, 20, 40, 60], [30, 10, 60, 90]], np.float32)
MAPS = [crop_matrix(box, CROP_WH) for box in GIVEN]
PERSON = (10, 20, 34, 70)


def said(box: tuple[float, ...] | None, fit: float | None = 0.5) -> CropPose:
    keypoints, scores = np.zeros((17, 2), np.float32), np.zeros(17, np.float32)
    return CropPose(keypoints, scores, None if box is None else np.array(box, np.float32), fit)


@pytest.fixture(scope="module")
def mending_models(tiny_models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """As `tiny_models`, with a pose network that sees the box of what is bright, and a fit of tiny.FIT."""
    path = tmp_path_factory.mktemp("mending") / "pose.onnx"
    return {**tiny_models, "pose_model": tiny.make_pose(path, mends=True)}


def test_boxes_come_back_in_picture_pixels_and_within_the_picture() -> None:
    poses = [said((4.8, 6.4, 43.2, 57.6), 0.7), said((-100, -100, 24, 32), 0.2), said((24, 32, 900, 900), 0.1)]
    found = mended_boxes(GIVEN[[0, 1, 1]], poses, [*MAPS, MAPS[1]], (100, 80))
    assert found is not None
    middle = (GIVEN[1, :2] + GIVEN[1, 2:]) / 2  # the crop's middle is the box's
    np.testing.assert_allclose(found.boxes_xyxy[1:], [[0, 0, *middle], [*middle, 100, 80]], atol=1e-4)
    scale = MAPS[0][0, 0]
    np.testing.assert_allclose(
        found.boxes_xyxy[0], [25 - 19.2 / scale, 40 - 25.6 / scale, 25 + 19.2 / scale, 40 + 25.6 / scale]
    )
    assert found.fits.tolist() == pytest.approx([0.7, 0.2, 0.1])


@pytest.mark.parametrize("nothing", [(30, 10, 20, 40), (-500, 0, -400, 64), (10, 10, 10, 10)])
def test_a_box_that_is_none_leaves_the_one_it_was_given(nothing: tuple[float, ...]) -> None:
    found = mended_boxes(GIVEN, [said(nothing), said((4.8, 6.4, 43.2, 57.6))], MAPS, (100, 80))
    assert found is not None and found.boxes_xyxy[0].tolist() == GIVEN[0].tolist()


def test_a_network_without_a_box_head_mends_nothing() -> None:
    assert mended_boxes(GIVEN, [said(None, None)] * 2, MAPS, (100, 80)) is None
    regions = Regions(GIVEN, np.array([0.5, np.nan]), True)
    assert regions.mended(None) is regions


def test_every_region_gets_the_mended_box_and_only_the_detector_s_score_is_weighed() -> None:
    """Nobody asks a track how sure the detector was."""
    regions = Regions(GIVEN, np.array([0.5, np.nan]), True)
    after = regions.mended(Mended(GIVEN + 5, np.array([0.3, 0.1], np.float32)))
    assert after.boxes_xyxy.tolist() == (GIVEN + 5).tolist()
    assert after.detector_scores[0] == pytest.approx(0.5 * 0.3 / GOOD_FIT) and np.isnan(after.detector_scores[1])


def test_who_fits_well_is_scored_as_without_a_box_head() -> None:
    trust = Mended(GIVEN, np.array([GOOD_FIT / 2, 0.9], np.float32)).trust
    assert trust.tolist() == pytest.approx([0.5, 1.0])


def test_a_found_person_has_the_mended_box_and_a_score_weighed_by_its_fit(mending_models: dict[str, Path]) -> None:
    image = picture(boxes=(PERSON,))

    async def use(pipeline: Pipeline) -> None:
        (found,) = (await pipeline.people(image, Options(1, min_score=0.0))).people
        detected = (await pipeline.detect(image, max_people=1)).boxes_xyxy
        mended = (await pipeline.pose(image, detected)).mended
        assert mended is not None
        assert found.box_xyxy.tolist() == mended.boxes_xyxy[0].tolist() != detected[0].tolist()
        np.testing.assert_allclose(found.box_xyxy, PERSON, atol=1.5)
        certain = np.float32([tiny.DETECTOR_SCORE * tiny.FIT / GOOD_FIT])
        assert found.score == pytest.approx(person_scores(found.keypoint_scores[None], certain)[0], rel=1e-5)
        given = np.array([[5, 5, 60, 80]], np.float32)
        (asked,) = (await pipeline.people(image, Options(1, boxes_xyxy=given))).people
        assert asked.box_xyxy.tolist() == given[0].tolist()  # a client's own box is not corrected

    with_pipeline(mending_models, use)


def test_somebody_whom_the_detector_proposes_twice_is_answered_once(
    mending_models: dict[str, Path], tmp_path: Path
) -> None:
    """A box around the person, and one that is far too large: to the box head both show the same."""
    close, far = (4.0, 8.0, 40.0, 80.0), (0.0, 0.0, 80.0, 96.0)
    detector = tiny.make_fixed_detector(tmp_path / "detector.onnx", 96, [close, far])

    async def use(pipeline: Pipeline) -> None:
        image = picture(96, 96, boxes=(PERSON,))
        assert len((await pipeline.detect(image, max_people=5)).scores) == 2
        assert len((await pipeline.people(image, Options(5))).people) == 1

    with_pipeline({**mending_models, "detector_model": detector}, use)


def followed(models: dict[str, Path], frames: int) -> list[TrackedPerson]:
    """The one person of a still picture, in each of a stream's `frames`; the detector sees the first."""
    settings = Settings(provider="cpu", min_score=0.0, **models)  # type: ignore[arg-type]

    async def use(pipeline: Pipeline) -> list[TrackedPerson]:
        follower, image = Follower(pipeline, settings), picture(boxes=(PERSON,))
        return [(await follower.people(image, index / 30))[0][0] for index in range(frames)]

    return with_pipeline(models, use)


def test_in_a_stream_the_detector_s_word_is_weighed_likewise(mending_models: dict[str, Path]) -> None:
    (person,) = followed(mending_models, frames=1)
    np.testing.assert_allclose(person.box_xyxy, PERSON, atol=1.5)
    assert person.score == pytest.approx(tiny.POSE_SCORE * tiny.DETECTOR_SCORE * tiny.FIT / GOOD_FIT, rel=1e-5)


def test_between_two_looks_of_the_detector_its_word_stands_as_it_was_weighed(mending_models: dict[str, Path]) -> None:
    first, *others = (person.score for person in followed(mending_models, frames=3))
    assert others == pytest.approx([first, first], rel=1e-5)  # not weighed again with each frame


def test_between_two_looks_of_the_detector_the_box_is_the_mended_one_too(
    mending_models: dict[str, Path], tiny_models: dict[str, Path]
) -> None:
    for person in followed(mending_models, frames=4):
        np.testing.assert_allclose(person.box_xyxy, PERSON, atol=1.5)
    _, *others = followed(tiny_models, frames=4)  # without a box head it is the skeleton's
    assert all(abs(person.box_xyxy - PERSON).max() > 2 for person in others)


def test_boxes_of_another_shape_stop_the_start(tmp_path: Path) -> None:
    path = tiny.make_pose(tmp_path / "pose.onnx", mends=True, corners=3)
    with pytest.raises(StartError, match=r"a box head gives boxes \(N, 4\) and fit \(N,\)"):
        PoseNetwork(Engine(path, provider="cpu")).warm()
