import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.overlap import iou, nesting, oks
from app.skeleton import OKS_SIGMAS


@given(st.lists(st.floats(0, 100), min_size=8, max_size=8))
def test_iou_agrees_with_counting_pixels_on_a_grid(values: list[float]) -> None:
    corners = np.round(np.array(values).reshape(2, 2, 2)).astype(int)
    low, high = corners.min(1), corners.max(1) + 1
    masks = np.zeros((2, 102, 102), bool)
    for mask, (x1, y1), (x2, y2) in zip(masks, low, high, strict=True):
        mask[y1:y2, x1:x2] = True
    boxes = np.concatenate([low, high], axis=1).astype(float)
    expected = (masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum()
    assert iou(boxes[:1], boxes[1:])[0, 0] == pytest.approx(expected)


def test_a_box_within_another_is_nested_whatever_their_sizes() -> None:
    large, small = np.array([[0.0, 0, 100, 100]]), np.array([[10.0, 10, 20, 20], [90, 90, 110, 110], [200, 0, 210, 10]])
    assert nesting(large, small)[0] == pytest.approx([1.0, 0.25, 0.0])
    assert np.array_equal(nesting(small, large)[:, 0], nesting(large, small)[0])


def test_oks_is_one_for_the_same_pose_and_falls_to_the_textbook_value() -> None:
    pose, seen = np.random.default_rng(0).uniform(0, 200, (17, 2)), np.ones(17, bool)
    assert oks(pose, pose, seen, 100.0) == 1.0
    moved = pose + np.stack([2 * OKS_SIGMAS * 100.0, np.zeros(17)], axis=1)  # each point by twice its sigma
    assert oks(pose, moved, seen, 100.0) == pytest.approx(np.exp(-0.5))
    assert oks(pose, pose, np.zeros(17, bool), 100.0) == 0.0
