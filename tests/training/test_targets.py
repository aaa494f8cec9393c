import math

import pytest
import torch

from training.targets import cells_within, centre_targets, keypoint_heatmaps


def test_every_cell_is_the_gaussian_of_its_centres_distance() -> None:
    keypoints = torch.tensor([[[10.3, 21.7], [5.0, 5.0]]])
    heatmaps = keypoint_heatmaps(keypoints, torch.tensor([[True, False]]), (32, 24), 4, 1.5)
    assert heatmaps.shape == (1, 2, 8, 6)
    for row in range(8):
        for column in range(6):
            dx, dy = (column + 0.5) - 10.3 / 4, (row + 0.5) - 21.7 / 4
            expected = math.exp(-(dx**2 + dy**2) / (2 * 1.5**2))
            assert abs(float(heatmaps[0, 0, row, column]) - expected) < 1e-6
    assert heatmaps[0, 1].abs().max() == 0


def test_every_person_has_one_cell_of_exactly_one() -> None:
    boxes = torch.tensor([[[10.0, 20, 60, 150], [100, 100, 140, 180], [0, 0, 1, 1]]])
    targets = centre_targets(boxes, torch.tensor([[True, True, False]]), (192, 160), 8)
    peaks = (targets.heatmaps[0, 0] == 1).nonzero().tolist()
    assert peaks == [[10, 4], [17, 15]]  # rows and columns of the centres (35, 85) and (120, 140), in cells of 8


def test_cells_learn_the_box_of_the_person_they_lie_in() -> None:
    boxes = torch.tensor([[[0.0, 0, 64, 128], [96, 0, 160, 128]]])
    targets = centre_targets(boxes, torch.ones(1, 2, dtype=torch.bool), (128, 160), 8)
    weighted = targets.box_weight[0] > 0
    left, right = targets.boxes[0, :, :10][weighted[:, :10]], targets.boxes[0, :, 10:][weighted[:, 10:]]
    assert (left == boxes[0, 0]).all()
    assert (right == boxes[0, 1]).all()


def test_whoever_is_a_few_cells_wide_teaches_the_box_all_around_the_centre() -> None:
    box = torch.tensor([[[52.0, 40, 76, 104]]])  # 3 x 8 cells, centred in the cell at row 9, column 8
    targets = centre_targets(box, torch.tensor([[True]]), (160, 160), 8)
    around = targets.box_weight[0, 8:11, 7:10]
    assert (around > 0).all() and around.argmax() == 4
    assert (targets.boxes[0, 8:11, 7:10] == box[0, 0]).all()


def test_large_and_small_people_weigh_the_same() -> None:
    boxes = torch.tensor([[[0.0, 0, 100, 180], [128, 128, 144, 160]]])
    targets = centre_targets(boxes, torch.ones(1, 2, dtype=torch.bool), (192, 160), 8)
    small = (targets.boxes[0] == boxes[0, 1]).all(-1)
    weight = targets.box_weight[0]
    torch.testing.assert_close(weight[small].sum(), torch.tensor(1.0))
    torch.testing.assert_close(weight[~small].sum(), torch.tensor(1.0))


def test_nobody_means_an_empty_map() -> None:
    targets = centre_targets(torch.tensor([[[0.0, 0, 1, 1]]]), torch.tensor([[False]]), (64, 64), 8)
    assert targets.heatmaps.abs().max() == 0
    assert targets.box_weight.abs().max() == 0


def test_a_person_s_bell_is_as_wide_and_as_high_as_nine_hundredths_of_the_box() -> None:
    box = torch.tensor([[[40.0, 20, 120, 148]]])  # 10 x 16 cells, centred in the cell at row 10, column 10
    bell = centre_targets(box, torch.tensor([[True]]), (192, 160), 8).heatmaps[0, 0]
    for row in range(24):
        for column in range(20):
            dx, dy = (column - 10) / max(0.09 * 10, 1), (row - 10) / (0.09 * 16)
            assert bell[row, column].item() == pytest.approx(math.exp(-(dx**2 + dy**2) / 2), abs=1e-5)


def test_a_cell_is_within_a_box_that_holds_its_middle() -> None:
    boxes = torch.tensor([[[3.0, 5, 13, 20], [0, 0, 64, 64]]])
    within = cells_within(boxes, torch.tensor([[True, False]]), (32, 24), 8)[0, 0]
    assert within.nonzero().tolist() == [[1, 0], [1, 1]]  # of columns at 4 and 12, of rows at 12; row 4 is above it
