"""The One-Euro filter, against the paper's algorithm written out for one number at a time."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.smoothing import OneEuro


class OneEuroOfOnePoint:
    """The algorithm of the CHI 2012 paper, slow and obvious, for a point that moves along one axis."""

    def __init__(self, min_cutoff_hz: float, speed_gain: float) -> None:
        self.min_cutoff_hz, self.speed_gain = min_cutoff_hz, speed_gain
        self.value = self.speed = self.time_s = None

    def __call__(self, value: float, time_s: float) -> float:
        if self.value is None:
            self.value, self.speed, self.time_s = value, 0.0, time_s
            return value
        step_s = time_s - self.time_s
        self.speed += self.alpha(1.0, step_s) * ((value - self.value) / step_s - self.speed)
        cutoff_hz = self.min_cutoff_hz + self.speed_gain * abs(self.speed)
        self.value += self.alpha(cutoff_hz, step_s) * (value - self.value)
        self.time_s = time_s
        return self.value

    @staticmethod
    def alpha(cutoff_hz: float, step_s: float) -> float:
        return 1.0 / (1.0 + (1.0 / (2 * math.pi * cutoff_hz)) / step_s)


@given(
    steps=st.lists(st.tuples(st.floats(-500, 500), st.floats(0.017, 0.5)), min_size=1, max_size=20),
    min_cutoff_hz=st.floats(0.1, 5),
    speed_gain=st.floats(0, 10),
)
def test_the_filter_agrees_with_the_papers_algorithm(steps, min_cutoff_hz, speed_gain):
    fast = OneEuro(min_cutoff_hz=min_cutoff_hz, speed_gain=speed_gain)
    slow = OneEuroOfOnePoint(min_cutoff_hz, speed_gain)
    time_s = 0.0
    for value, step_s in steps:
        time_s += step_s
        (x, y) = fast(np.array([value, 7.0]), time_s, 1.0)
        assert x == pytest.approx(slow(value, time_s), rel=1e-9, abs=1e-9)
        assert y == 7.0


@given(scale=st.floats(0.01, 100), angle=st.floats(0, 6))
def test_neither_the_persons_size_nor_the_direction_matters(scale, angle):
    path = np.cumsum(np.random.default_rng(1).normal(0, 0.05, (10, 1)), axis=0) * [1.0, 0.0]
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * scale
    plain, turned = OneEuro(), OneEuro()
    for index, point in enumerate(path):
        expected = turn @ plain(point, index / 30, 1.0)
        assert turned(turn @ point, index / 30, scale) == pytest.approx(expected, abs=1e-9 * scale)


def test_jitter_of_a_resting_point_is_reduced_to_less_than_half():
    noise = np.random.default_rng(0).normal(0, 1.0, (300, 17, 2))
    smooth = OneEuro()
    shown = np.array([smooth(points, index / 30, 150.0) for index, points in enumerate(noise)])
    assert np.abs(np.diff(shown[30:], axis=0)).mean() < 0.5 * np.abs(np.diff(noise[30:], axis=0)).mean()


def test_the_filter_converges_to_a_point_that_jumped():
    smooth = OneEuro()
    smooth(np.zeros(2), 0.0, 100.0)
    for index in range(1, 60):
        shown = smooth(np.array([80.0, -40.0]), index / 30, 100.0)
    assert shown == pytest.approx([80.0, -40.0], abs=0.1)


@pytest.mark.parametrize(("sizes_s", "lag_ms"), [(0.05, 60.6), (0.5, 20.1), (1.5, 9.4)])
def test_what_moves_lags_the_less_the_faster_it_is(sizes_s, lag_ms):
    smooth, size_px = OneEuro(), 150.0
    for index in range(600):
        x, y = smooth(np.array([sizes_s * size_px * index / 30, 7.0]), index / 30, size_px)
    assert (sizes_s * size_px * 599 / 30 - x) / (sizes_s * size_px) * 1000 == pytest.approx(lag_ms, abs=0.1)
    assert y == pytest.approx(7.0)


def test_a_fast_hand_lags_by_less_than_a_frame():
    smooth, speed_px_s = OneEuro(), 300.0  # two body sizes a second
    for index in range(60):
        shown = smooth(np.array([speed_px_s * index / 30, 0.0]), index / 30, 150.0)
    assert speed_px_s * 59 / 30 - shown[0] < speed_px_s / 30


def test_a_frame_that_comes_close_behind_a_late_one_hardly_lags_for_it():
    def lag_px(late_s: float) -> float:
        smooth, speed_px_s, lags = OneEuro(), 300.0, []
        for index in range(120):
            x, time_s = speed_px_s * index / 30, index / 30 + late_s * (index % 4 == 2)
            lags.append(x - smooth(np.array([x, 0.0]), time_s, 200.0)[0])
        return float(np.mean(lags[35::4]))

    assert lag_px(0.032) < 2 * lag_px(0.0)


def test_an_unseen_point_comes_back_where_it_is_and_disturbs_no_other():
    smooth, alone = OneEuro(), OneEuro()
    unseen = np.array([[np.nan, np.nan], [5.0, 5.0]])
    smooth(np.array([[0.0, 0.0], [4.0, 4.0]]), 0.0, 10.0)
    alone(np.array([[4.0, 4.0]]), 0.0, 10.0)
    hidden = smooth(unseen, 0.1, 10.0)
    assert np.isnan(hidden[0]).all()
    assert hidden[1] == pytest.approx(alone(np.array([[5.0, 5.0]]), 0.1, 10.0)[0])
    assert smooth(np.array([[90.0, 90.0], [5.0, 5.0]]), 0.2, 10.0)[0] == pytest.approx([90.0, 90.0])
