"""Scores that are chances: fitted, measured, and the same in the exported file."""

import numpy as np
import pytest
import torch

from model.export import Calibration
from training.calibration import fit_calibration, reliability

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


def test_reliability_compares_promise_and_outcome_in_tenths() -> None:
    scores = np.array([0.05, 0.05, 0.95, 0.95, 1.0])
    bins, gap = reliability(scores, np.array([True, False, True, True, False]))
    assert [b.points for b in bins] == [2, 3]
    assert [b.right for b in bins] == pytest.approx([0.5, 2 / 3])
    assert gap == pytest.approx(2 / 5 * 0.45 + 3 / 5 * (2.9 / 3 - 2 / 3))
