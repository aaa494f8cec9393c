"""Scores that are chances: fitted, measured, and the same in the exported file."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from app.skeleton import OKS_SIGMAS
from model.export import Calibration
from training.calibration import TYPICAL, fit_calibration, reliability, right_keypoints
from training.data import Dataset, load_coco
from training.joints import COCO, MPII

TRUE = Calibration(half=0.3, slope=2.5)


def outcomes(count: int = 40_000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Peaks and whether their keypoints are right, as often as `TRUE` says."""
    random = np.random.default_rng(seed)
    peaks = random.uniform(0, 1, count).astype(np.float32)
    return peaks, random.random(count) < TRUE(torch.from_numpy(peaks)).numpy()


def test_the_fit_finds_the_law_that_made_the_outcomes() -> None:
    found = fit_calibration(*outcomes())
    assert found is not None
    assert (found.half, found.slope) == pytest.approx((TRUE.half, TRUE.slope), rel=0.05)


def test_calibrated_scores_keep_what_they_promise_on_other_keypoints() -> None:
    found = fit_calibration(*outcomes())
    peaks, right = outcomes(seed=1)
    assert found is not None
    _, gap = reliability(found(torch.from_numpy(peaks)).numpy(), right)
    _, raw_gap = reliability(peaks, right)
    assert gap < 0.02 < raw_gap


def test_a_higher_peak_is_a_higher_score_and_none_is_none() -> None:
    scores = TRUE(torch.tensor([0.0, 0.1, 0.3, 0.8, 1.0])).tolist()
    assert scores == sorted(set(scores))
    assert scores[0] < 1e-6
    assert scores[2] == pytest.approx(0.5)
    assert scores[-1] < 1


@pytest.mark.parametrize("right", [np.ones(500, bool), np.arange(500) < 10, np.arange(500) % 2 == 0])
def test_outcomes_that_say_too_little_calibrate_nothing(right: np.ndarray) -> None:
    falling = np.linspace(0.9, 0.1, 500)  # and in the last case peaks say nothing
    assert fit_calibration(falling, right) is None


@pytest.mark.parametrize("rare", [True, False])
def test_a_hundred_outcomes_of_either_kind_are_enough_and_one_less_is_not(rare: bool) -> None:
    expected = np.linspace(0.1, 0.9, 1000)
    for count in (100, 99):
        few = np.arange(1000) % 10 == 0
        few[np.flatnonzero(few)[count:]] = False
        right = few if rare else ~few
        fitted = fit_calibration(np.where(right, expected, expected**2), right)
        assert (fitted is not None) == (count == 100)


def test_keypoints_of_which_nothing_is_expected_are_calibrated_by_as_well() -> None:
    peaks, right = outcomes()
    nothing, never = np.zeros(500, np.float32), np.zeros(500, bool)
    found = fit_calibration(np.concatenate([peaks, nothing]), np.concatenate([right, never]))
    assert found is not None
    assert (found.half, found.slope) == pytest.approx((TRUE.half, TRUE.slope), rel=0.05)


def test_where_too_few_are_held_out_scores_are_calibrated_as_the_bundled_students(real_models: dict[str, Path]) -> None:
    card = json.loads(real_models["pose_model"].with_suffix(".json").read_text())
    assert dataclasses.asdict(TYPICAL) == pytest.approx(card["calibration"], rel=0.05)


def test_reliability_compares_promise_and_outcome_in_tenths() -> None:
    scores = np.array([0.05, 0.05, 0.95, 0.95, 1.0])
    bins, gap = reliability(scores, np.array([True, False, True, True, False]))
    assert [b.points for b in bins] == [2, 3]
    assert [b.right for b in bins] == pytest.approx([0.5, 2 / 3])
    assert gap == pytest.approx(2 / 5 * 0.45 + 3 / 5 * (2.9 / 3 - 2 / 3))


def test_of_no_keypoints_there_is_no_gap() -> None:
    assert reliability(np.zeros(0), np.zeros(0, bool)) == ([], 0)


def off_by(dataset: Dataset, pixels: np.ndarray) -> np.ndarray:
    """The annotated keypoints, moved by `pixels` (N, K) in a direction of each one's own."""
    angles = np.linspace(0, 6, pixels.size).reshape(pixels.shape)
    return dataset.people.keypoints.numpy() + pixels[..., None] * np.stack([np.cos(angles), np.sin(angles)], 2)


@pytest.mark.parametrize(("factor", "right"), [(0.98, True), (1.02, False)])
def test_a_keypoint_is_right_up_to_a_similarity_of_a_half_and_only_where_it_is_labelled(
    factor: float, right: bool, drawn_folder: Path
) -> None:
    dataset = load_coco(drawn_folder, "train")
    people = dataset.people
    people.labelled[:, 3] = False
    people.area[0] *= 4
    half = 2 * OKS_SIGMAS * np.sqrt(2 * np.log(2) * people.area.numpy()[:, None])  # exp(-d^2 / 2 area (2 sigma)^2)
    found = right_keypoints(off_by(dataset, factor * half), people, COCO)
    assert np.array_equal(found, people.labelled.numpy() & right)


@pytest.mark.parametrize(("factor", "right"), [(0.98, True), (1.02, False)])
def test_a_joint_of_mpii_s_is_right_within_half_a_head(factor: float, right: bool, drawn_folder: Path) -> None:
    people = load_coco(drawn_folder, "train").people
    count = len(people)
    heads = torch.tensor([[10.0, 10, 40, 50], [10, 10, 16, 18]]).repeat(count // 2, 1)  # diagonals of 50 and 10
    labelled = torch.ones(count, 16, dtype=torch.bool)
    labelled[:, 5] = False
    people = dataclasses.replace(people, keypoints=people.keypoints[:, :16], labelled=labelled, head_boxes=heads)
    reach = np.tile([[0.5 * 0.6 * 50], [0.5 * 0.6 * 10]], (count // 2, 16))
    moved = people.keypoints.numpy() + np.stack([0 * reach, factor * reach], 2)
    assert np.array_equal(right_keypoints(moved, people, MPII), labelled.numpy() & right)
