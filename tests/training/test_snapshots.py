"""What TensorBoard shows of a network's answers."""

import numpy as np
import torch

from training.snapshots import HEAT_SHARE, draw_skeleton, grid

GREY = 100


def test_heatmaps_lie_below_the_marked_pictures_each_over_its_own_crop_without_marks() -> None:
    crops = torch.full((2, 3, 8, 6), float(GREY))
    marked = [np.full((8, 6, 3), brightness, np.uint8) for brightness in (10, 20)]
    heatmaps = torch.stack([torch.zeros(4, 3), torch.full((4, 3), 1.5)])  # a young network's may be hotter than 1
    shown = grid(crops, marked, heatmaps)
    assert shown.shape == (16, 12, 3)
    np.testing.assert_array_equal(shown[:8], np.concatenate(marked, axis=1))
    grey, dark = (1 - HEAT_SHARE) * GREY, HEAT_SHARE * 128
    np.testing.assert_allclose(shown[8:, :6], np.broadcast_to([grey, grey, grey + dark], (8, 6, 3)), atol=1)
    np.testing.assert_allclose(shown[8:, 6:], np.broadcast_to([grey + dark, grey, grey], (8, 6, 3)), atol=1)


def test_a_skeleton_goes_from_joint_to_joint() -> None:
    drawn = draw_skeleton(np.zeros((20, 40, 3), np.uint8), np.array([[5.0, 3.0], [35.0, 3.0], [5.0, 17.0]]), [(0, 1)])
    red, green = drawn[..., 0] > 200, drawn[..., 1] > 100
    assert red[3, 5] and red[3, 35] and red[17, 5]
    assert green[3, 10:31].all() and not green[10:].any()
