"""The One-Euro filter for points: calm when they rest, prompt when they move (Casiez, Roussel, Vogel; CHI 2012)."""

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]  # (..., 2)

MIN_CUTOFF_HZ = 1.5  # a resting point keeps what changes slower than this; lower is calmer and later
SPEED_GAIN = 8.0  # Hz of cutoff for each body size per second: a waving wrist (1.5 sizes/s) lags by some 10 ms
SPEED_CUTOFF_HZ = 1.0  # the paper's value for the estimate of the speed
SHORTEST_STEP_S = 1 / 60  # frames that come closer were taken further apart: the way held the first one up


class OneEuro:
    """One filter for an array of points, of which each has its own speed and so its own cutoff.

    The paper's constants depend on the unit of the signal. Here speeds are divided by `scale` (the person's size), so
    one pair of constants suits a person of 50 and of 500 pixels. Both axes share a cutoff: no direction is preferred.
    """

    def __init__(self, *, min_cutoff_hz: float = MIN_CUTOFF_HZ, speed_gain: float = SPEED_GAIN) -> None:
        self._min_cutoff_hz = min_cutoff_hz
        self._speed_gain = speed_gain
        self._time_s = 0.0
        self._points: Points | None = None
        self._velocity: Points | None = None  # (..., 2) sizes per second

    def __call__(self, points: NDArray[np.floating], time_s: float, scale: float) -> Points:
        """Smooth `points` (..., 2), measured at `time_s` on a person of size `scale` > 0 in the points' unit.

        A point of NaN was not seen: it comes back as NaN, and starts afresh where it is seen next.
        """
        measured = np.asarray(points, dtype=np.float64)
        if self._points is None or self._velocity is None:
            self._points, self._velocity = np.full_like(measured, np.nan), np.zeros_like(measured)
        step_s = max(time_s - self._time_s, SHORTEST_STEP_S)
        starts = np.isnan(self._points)
        previous = np.where(starts, measured, self._points)
        velocity = np.where(starts, 0.0, self._velocity)

        velocity_now = (measured - previous) / (step_s * scale)
        velocity = velocity + _weight(np.float64(SPEED_CUTOFF_HZ), step_s) * (velocity_now - velocity)
        speed = np.linalg.norm(velocity, axis=-1, keepdims=True)  # (..., 1)
        smooth = previous + _weight(self._min_cutoff_hz + self._speed_gain * speed, step_s) * (measured - previous)

        self._time_s, self._points, self._velocity = time_s, smooth, velocity
        return np.asarray(smooth)


def _weight(cutoff_hz: NDArray[np.float64] | np.float64, step_s: float) -> NDArray[np.float64]:
    """The share (0..1) of a new sample in a first-order low-pass filter."""
    turn = 2 * np.pi * cutoff_hz * step_s
    return np.asarray(turn / (turn + 1))
