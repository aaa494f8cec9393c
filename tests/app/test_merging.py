"""One person found several times is answered once; two people stay two."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import ArrayLike

from app.merging import SAME_PERSON, SURE, Finds, each_person_once
from app.overlap import iou, keypoint_similarity, oks
from app.skeleton import OKS_SIGMAS

POSE = np.random.default_rng(0).uniform(0, 100, (17, 2)).astype(np.float32)
BOX = np.array([0, 0, 100, 100], np.float32)
LEGS = np.arange(17) >= 11  # and hips
EVERY_KEYPOINT = np.ones(17, bool)


def finds(*people: tuple[float, ArrayLike, ArrayLike], sure: ArrayLike = 0.9) -> Finds:
    """Of each: score, box, keypoints; keypoints are all as sure as that, or as each person's row says."""
    scores, boxes, keypoints = zip(*people, strict=True)
    of_keypoints = np.broadcast_to(np.asarray(sure, np.float32), (len(people), 17))
    return Finds(np.float32(boxes), np.float32(scores), np.float32(keypoints), of_keypoints)


def test_of_a_person_found_twice_the_better_stays_and_the_surest_person_comes_first() -> None:
    once = each_person_once(finds((0.5, BOX + 1, POSE + 1), (0.7, BOX + 60, POSE + 60), (0.9, BOX, POSE)))
    assert once.scores.tolist() == pytest.approx([0.9, 0.7])
    np.testing.assert_allclose(once.boxes_xyxy, [BOX, BOX + 60], atol=0.5)


def test_a_person_found_whole_and_as_an_upper_half_is_one_by_the_keypoints_that_both_are_sure_of() -> None:
    upper = POSE + np.where(LEGS, 80, 1)[:, None]  # hips and legs are guesses
    sure = np.full((2, 17), 0.35)
    whole_and_half = (0.9, BOX, POSE), (0.5, BOX * [1, 1, 1, 0.3], upper)
    sure[1, LEGS] = 0.1
    assert len(each_person_once(finds(*whole_and_half, sure=sure)).scores) == 1
    assert len(each_person_once(finds(*whole_and_half)).scores) == 2, "they contradict each other about the legs"
    sure[1, 5:] = 0.1
    assert len(each_person_once(finds(*whole_and_half, sure=sure)).scores) == 1, "five keypoints are enough to tell"
    sure[1, 4:] = 0.1
    assert len(each_person_once(finds(*whole_and_half, sure=sure)).scores) == 2, "four keypoints are too few"


@pytest.mark.parametrize("shift, people", [(0, 1), (20, 1), (50, 2)])
def test_where_half_of_the_keypoints_agree_the_boxes_tell(shift: float, people: int) -> None:
    """Boxes of 100 pixels' width: with all, 80 of 120 or 50 of 150 of them shared."""
    half = POSE + np.where(np.arange(17) < 8, 0, 100)[:, None]
    found = each_person_once(finds((0.9, BOX, POSE), (0.8, BOX + [shift, 0, shift, 0], half)))
    assert len(found.scores) == people


def test_a_child_before_an_adult_is_not_the_same_person() -> None:
    child = 0.8, BOX * 0.3 + 35, POSE * 0.3 + 35
    assert len(each_person_once(finds((0.9, BOX, POSE), child)).scores) == 2


def test_people_apart_are_two_whatever_their_poses() -> None:
    """As a network's may be that knows nothing: all keypoints in one place."""
    nowhere = np.full((17, 2), 100.0)
    found = each_person_once(finds((0.9, BOX, nowhere), (0.8, BOX + [100, 0, 100, 0], nowhere)))
    assert len(found.scores) == 2


def test_nobody_is_made_of_no_finds() -> None:
    somebody = finds((0.9, BOX, POSE))
    nobody = each_person_once(somebody.rows(np.arange(0)))
    assert nobody.keypoints.shape == (0, 17, 2) and nobody.boxes_xyxy.shape == (0, 4)


def test_places_are_means_by_the_finds_scores() -> None:
    def shifted(score: float) -> Finds:
        return each_person_once(finds((0.8, BOX, POSE), (score, BOX + 2, POSE + 2)))

    equal, fainter = shifted(0.8), shifted(0.2)
    assert 0.7 < equal.boxes_xyxy[0, 0] < 1, "nearly half, being nearly alike"
    assert 0 < fainter.boxes_xyxy[0, 0] < equal.boxes_xyxy[0, 0]
    assert 0 < (fainter.keypoints - POSE).max() < (equal.keypoints - POSE).max() < 1
    assert equal.scores.tolist() == pytest.approx([0.8]), "whoever is found twice is not surer there"


def test_a_keypoint_that_a_find_has_elsewhere_or_is_unsure_of_hardly_counts() -> None:
    other = POSE + np.where(np.arange(17) == 16, 60, 2)[:, None]  # an ankle
    sure = np.full((2, 17), 0.9)
    sure[1, 0] = 0.01
    merged = each_person_once(finds((0.8, BOX, POSE), (0.8, BOX, other), sure=sure))
    moved = (merged.keypoints[0] - POSE)[:, 0]
    assert moved[16] < 0.1 and moved[0] < 0.05 and moved[11] > 0.7
    assert merged.keypoint_scores[0].tolist() == pytest.approx([0.9] * 17)


def test_scores_of_nothing_do_no_harm() -> None:
    merged = each_person_once(finds((0.0, BOX, POSE), (0.0, BOX + 1, POSE), sure=0.0))
    assert len(merged.scores) == 1 and np.isfinite(merged.keypoints).all() and np.isfinite(merged.boxes_xyxy).all()


@given(st.integers(0, 2**32 - 1), st.integers(1, 40))
def test_everybody_left_is_somebody_else_and_who_was_alone_is_unchanged(seed: int, count: int) -> None:
    random = np.random.default_rng(seed)
    corners = random.uniform(0, 200, (count, 2))
    boxes = np.concatenate([corners, corners + random.uniform(20, 150, (count, 2))], 1).astype(np.float32)
    keypoints = corners[:, None] + random.uniform(0, 150, (17, 2)) + random.normal(0, 5, (count, 17, 2))
    scores = random.permutation(count).astype(np.float32) / count
    given_finds = Finds(boxes, scores, keypoints.astype(np.float32), random.uniform(SURE, 1, (count, 17)))
    once = each_person_once(given_finds)
    assert (np.diff(once.scores) < 0).all() and set(once.scores) <= set(scores)
    rows = [int(np.flatnonzero(scores == score)[0]) for score in once.scores]
    sizes = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1))
    smaller = np.minimum(sizes[:, None], sizes)
    every = oks(given_finds.keypoints[:, None], given_finds.keypoints, EVERY_KEYPOINT, smaller)
    alike = np.where(iou(boxes, boxes) > 0, (every + iou(boxes, boxes)) / 2, 0)
    assert (alike[np.ix_(rows, rows)] - np.eye(len(rows))).max() < SAME_PERSON, "whom the scores name are apart"
    lone = (alike >= SAME_PERSON).sum(1) == 1
    for place, row in enumerate(rows):
        if lone[row]:
            assert once.boxes_xyxy[place].tolist() == boxes[row].tolist()
            assert once.keypoints[place].tolist() == given_finds.keypoints[row].tolist()


def test_oks_is_one_for_the_same_pose_and_falls_with_distance() -> None:
    similar = oks(POSE, np.stack([POSE, POSE + 3, POSE + 100]), EVERY_KEYPOINT, np.full(3, 100.0))
    assert similar[0] == pytest.approx(1) and 1 > similar[1] > 0.5 and similar[2] < 0.01


def test_oks_agrees_with_cocos_definition() -> None:
    other, area = POSE + np.random.default_rng(1).normal(0, 5, POSE.shape).astype(np.float32), 5000.0
    terms = []
    for (x1, y1), (x2, y2), sigma in zip(POSE, other, OKS_SIGMAS, strict=True):
        terms.append(np.exp(-((x1 - x2) ** 2 + (y1 - y2) ** 2) / (2 * area * (2 * sigma) ** 2)))
    assert oks(POSE, other[None], EVERY_KEYPOINT, np.sqrt([area]))[0] == pytest.approx(np.mean(terms), rel=1e-4)
    np.testing.assert_allclose(keypoint_similarity(POSE, other, np.sqrt(area)), terms, rtol=1e-4)
