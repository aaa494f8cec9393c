"""Scores that mean something: from an expected similarity to the chance that the keypoint is where it was found."""

import logging
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from model.export import FAINTEST, Calibration
from training.data import People
from training.joints import MPII, JointSet
from training.metrics import keypoint_similarity
from training.pckh import head_sizes

log = logging.getLogger("okdhp.calibration")
Floats = NDArray[Any]
RIGHT_SIMILARITY = 0.5  # a keypoint is right from this OKS on; MPII's within half a head, as PCKh@0.5
MIN_OUTCOMES = 100  # right and wrong keypoints each: fewer say too little
TYPICAL = Calibration(half=0.035, slope=1.56)  # the bundled student's; what is expected itself is far below any chance


def right_keypoints(keypoints: Floats, people: People, joints: JointSet) -> NDArray[np.bool_]:
    """Which of the predicted keypoints (N, K, 2) are right (N, K); only labelled ones can be."""
    annotated, labelled = people.keypoints.numpy(), people.labelled.numpy()
    if joints == MPII:
        near = np.linalg.norm(keypoints - annotated, axis=2) <= 0.5 * head_sizes(people.head_boxes.numpy())[:, None]
    else:
        near = keypoint_similarity(keypoints, annotated, people.area.numpy()) >= RIGHT_SIMILARITY
    right: NDArray[np.bool_] = near & labelled
    return right


def fit_calibration(expected: Floats, right: NDArray[np.bool_]) -> Calibration | None:
    """The calibration that makes the `right` outcomes (N,) of keypoints with `expected` similarities (N,) likeliest.

    A logistic regression on the logarithm (Platt, 1999). None where there are too few outcomes of either kind, or
    where a higher expectation does not mean a better chance.
    """
    if min(right.sum(), (~right).sum()) < MIN_OUTCOMES:
        log.warning("too few held out to calibrate by: %d right and %d wrong keypoints", right.sum(), (~right).sum())
        return None
    x, sign = np.log(np.maximum(expected, FAINTEST)), np.where(right, 1.0, -1.0)

    def unlikelihood(parameters: Floats) -> float:
        return float(np.logaddexp(0, -sign * (parameters[0] * x + parameters[1])).mean())

    slope, offset = minimize(unlikelihood, np.array([1.0, 0.0])).x
    if not slope > 0.1:
        log.warning("higher expectations are not better ones (slope %.2f)", slope)
        return None
    return Calibration(half=float(np.exp(-offset / slope)), slope=float(slope))


class Bin(NamedTuple):
    """Keypoints whose scores lie in one tenth of 0..1: how many, their mean score, and the share that is right."""

    points: int
    score: float
    right: float


def reliability(scores: Floats, right: NDArray[np.bool_]) -> tuple[list[Bin], float]:
    """What scores (N,) promise and what comes, in tenths; and the mean gap, each bin weighed by its keypoints (ECE)."""
    index = np.minimum((scores * 10).astype(int), 9)
    bins = [
        Bin(int(chosen.sum()), float(scores[chosen].mean()), float(right[chosen].mean()))
        for tenth in range(10)
        if (chosen := index == tenth).any()
    ]
    gap = sum(b.points * abs(b.score - b.right) for b in bins) / max(len(scores), 1)
    return bins, gap
