"""PCKh against a slow, obvious version of the benchmark's definition."""

import math

import numpy as np
import pytest

from training.joints import MPII
from training.pckh import GROUPS, THRESHOLDS, Pckh, head_sizes, pckh


def people(seed: int = 0, count: int = 20) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Predicted and annotated joints, labels and head boxes of drawn people; errors up to about a head."""
    random = np.random.default_rng(seed)
    annotated = random.uniform(-50, 500, (count, 16, 2))
    corners = random.uniform(0, 400, (count, 2))
    boxes = np.concatenate([corners, corners + random.uniform(10, 90, (count, 2))], axis=1)
    predicted = annotated + random.normal(0, 1, (count, 16, 2)) * random.uniform(0, 30, (count, 1, 1))
    return predicted, annotated, random.random((count, 16)) < 0.8, boxes


def slow_share(joints: list[str], threshold: float, case: tuple[np.ndarray, ...]) -> float:
    predicted, annotated, labelled, boxes = case
    found = total = 0
    for n in range(len(predicted)):
        x1, y1, x2, y2 = boxes[n]
        head = 0.6 * math.sqrt((x2 - x1) ** 2 + (y2 - y1) ** 2)
        for k, name in enumerate(MPII.names):
            if name in joints and labelled[n, k]:
                (px, py), (ax, ay) = predicted[n, k], annotated[n, k]
                total += 1
                found += math.sqrt((px - ax) ** 2 + (py - ay) ** 2) / head <= threshold
    return found / total


@pytest.mark.parametrize("seed", range(3))
def test_every_figure_equals_the_slow_definition(seed: int) -> None:
    case = people(seed)
    found = pckh(*case)
    counted = [name for name in MPII.names if name not in ("pelvis", "thorax")]
    assert 0.2 < found.at_50 < 0.95
    assert found.at_50 == pytest.approx(slow_share(counted, 0.5, case))
    assert found.at_10 == pytest.approx(slow_share(counted, 0.1, case))
    assert found.joints == pytest.approx({name: slow_share([name], 0.5, case) for name in MPII.names})
    area = 0.0
    for step in range(50):
        before, after = (slow_share(counted, (step + edge) / 100, case) for edge in (0, 1))
        area += (before + after) / 2 * 0.02  # thresholds 0..0.5 are stretched to 0..1
    assert found.auc == pytest.approx(area)
    for group, joints in GROUPS.items():
        assert found.groups[group] == pytest.approx(np.mean([slow_share([name], 0.5, case) for name in joints]))


def one_off_by(heads: float) -> Pckh:
    """One person with a head of 0.6 * 100 px, every joint off by so many heads to the right."""
    annotated = np.zeros((1, 16, 2))
    predicted = annotated + (heads * 60, 0.0)
    return pckh(predicted, annotated, np.ones((1, 16), dtype=bool), np.array([[0.0, 0, 60, 80]]))


def test_head_is_six_tenths_of_its_boxs_diagonal() -> None:
    assert head_sizes(np.array([[10.0, 10, 70, 90]])).tolist() == [60.0]


def test_threshold_is_a_tenth_and_not_eleven_hundredths() -> None:
    assert THRESHOLDS[10] == 0.1
    assert one_off_by(0.1).at_10 == 1.0  # "within": the edge counts
    assert one_off_by(0.1001).at_10 == 0.0
    assert (one_off_by(0.5).at_50, one_off_by(0.5001).at_50) == (1.0, 0.0)


def test_exact_joints_reach_everything() -> None:
    perfect = one_off_by(0.0)
    assert (perfect.at_50, perfect.at_10, perfect.auc) == (1.0, 1.0, 1.0)


def test_joints_without_a_label_do_not_count() -> None:
    predicted, annotated, labelled, boxes = people()
    before = pckh(predicted, annotated, labelled, boxes)
    predicted[~labelled] = 1e6
    annotated[~labelled] = np.nan
    after = pckh(predicted, annotated, labelled, boxes)
    np.testing.assert_array_equal(before.curve, after.curve)
    np.testing.assert_array_equal(before.mean_curve, after.mean_curve)


def test_a_joint_nobody_has_is_nan_and_the_mean_goes_on() -> None:
    predicted, annotated, labelled, boxes = people()
    labelled[:, 3] = False
    found = pckh(predicted, annotated, labelled, boxes)
    assert math.isnan(found.joints["left_hip"])
    assert 0 < found.at_50 < 1
    assert math.isnan(pckh(predicted, annotated, np.zeros_like(labelled), boxes).at_50)


def test_pelvis_and_thorax_have_figures_but_are_not_in_the_mean() -> None:
    annotated = np.zeros((1, 16, 2))
    predicted = annotated.copy()
    predicted[:, [6, 7]] = 1000.0
    found = pckh(predicted, annotated, np.ones((1, 16), dtype=bool), np.array([[0.0, 0, 60, 80]]))
    assert (found.joints["pelvis"], found.joints["thorax"], found.at_50) == (0.0, 0.0, 1.0)


def test_a_joint_that_was_not_predicted_is_not_found() -> None:
    annotated = np.zeros((1, 16, 2))
    predicted = annotated.copy()
    predicted[0, 0] = np.nan
    found = pckh(predicted, annotated, np.ones((1, 16), dtype=bool), np.array([[0.0, 0, 60, 80]]))
    assert found.joints["right_ankle"] == 0.0
    assert found.at_50 == pytest.approx(13 / 14)


def test_a_label_out_of_the_picture_counts_like_any_other() -> None:
    annotated = np.full((1, 16, 2), -300.0)
    found = pckh(annotated, annotated, np.ones((1, 16), dtype=bool), np.array([[0.0, 0, 60, 80]]))
    assert found.at_50 == 1.0


@pytest.mark.parametrize("box", [[np.nan] * 4, [5.0, 5, 5, 5]])
def test_a_person_without_a_head_box_is_refused_by_number(box: list[float]) -> None:
    predicted, annotated, labelled, boxes = people(count=3)
    boxes[1] = box
    with pytest.raises(ValueError, match="everyone's head box: 1 of 3 have none, first 1"):
        pckh(predicted, annotated, labelled, boxes)


def test_coco_keypoints_are_refused() -> None:
    with pytest.raises(ValueError, match=r"needs joints \(N, 16, 2\)"):
        pckh(np.zeros((2, 17, 2)), np.zeros((2, 17, 2)), np.ones((2, 17), dtype=bool), np.zeros((2, 4)))
