from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from app.skeleton import OKS_SIGMAS
from app.suppression import CELLS as READ
from model.decode import BODY, CELLS, TEMPERATURE, boxes_at_cells, decode_expected, surest_cells
from training.decoding import Decode, decode_heatmaps
from training.targets import keypoint_heatmaps


def test_gaussians_are_read_back_to_a_hundredth_of_a_cell() -> None:
    generator = torch.Generator().manual_seed(0)
    keypoints = torch.rand(50, 17, 2, generator=generator) * torch.tensor([180.0, 244.0]) + 6
    heatmaps = keypoint_heatmaps(keypoints, torch.ones(50, 17, dtype=torch.bool), (256, 192), 4, 2.0)
    found, scores = decode_heatmaps(heatmaps, 4.0)
    assert (found - keypoints).abs().max() < 0.04
    assert scores.min() > 0.9


def test_a_lone_peak_on_the_border_is_at_the_border() -> None:
    """As a heatmap goes on beyond the border as it is there, the true peak may well lie outside."""
    heatmaps = torch.zeros(1, 4, 6, 8)
    corners = [(0, 0), (0, 7), (5, 0), (5, 7)]
    for keypoint, (row, column) in enumerate(corners):
        heatmaps[0, keypoint, row, column] = 1.0
    found, _ = decode_heatmaps(heatmaps, 1.0)
    torch.testing.assert_close(found, torch.tensor([[(0.0, 0.0), (8.0, 0.0), (0.0, 6.0), (8.0, 6.0)]]))


SIGMAS = tuple(OKS_SIGMAS.tolist())


def gaussians(keypoints: Tensor, sigma: float = 2.0) -> Tensor:
    return keypoint_heatmaps(keypoints, torch.ones(keypoints.shape[:2], dtype=torch.bool), (256, 192), 4, sigma)


@pytest.mark.parametrize("height", [1.0, 0.5])
def test_expected_similarity_is_highest_at_a_gaussians_centre(height: float) -> None:
    """To an eighth of a cell, however low it is, and near borders too, where the bells of hips and shoulders end."""
    generator = torch.Generator().manual_seed(0)
    keypoints = torch.rand(50, 17, 2, generator=generator) * torch.tensor([168.0, 232.0]) + 12
    found, _ = decode_expected(height * gaussians(keypoints), 4.0, SIGMAS)
    assert (found - keypoints).abs().max() < 0.6
    inner = ((keypoints > 48) & (keypoints < torch.tensor([144.0, 208.0]))).all(2)
    assert (found - keypoints)[inner].abs().max() < 0.5


def test_a_gaussian_whose_centre_is_in_the_outermost_place_is_read_there() -> None:
    borders = torch.tensor([(6.0, 128.0), (186.0, 128.0), (96.0, 6.0), (96.0, 250.0)])
    keypoints = borders[:, None].expand(4, 17, 2)
    found, _ = decode_expected(gaussians(keypoints), 4.0, SIGMAS)
    assert (found - keypoints).abs().max() < 1.0


def test_expected_similarity_equals_its_slow_definition() -> None:
    """For each place of the grid: over all cells, what an answer there gains, weighed by how much likelier they are
    than an empty one."""
    heatmaps = torch.rand(2, 3, 8, 6, generator=torch.Generator().manual_seed(1))
    sigmas = (0.03, 0.1, 0.4)
    _, scores = decode_expected(heatmaps, 4.0, sigmas)
    for b, k in np.ndindex(2, 3):
        weights = np.exp(heatmaps[b, k].double().numpy() / TEMPERATURE)
        chance = ((weights - 1) / (weights.sum() + 1)).reshape(4, 2, 3, 2).sum((1, 3))
        y, x = np.mgrid[:4, :3]
        reach = 2 * sigmas[k] * BODY * 4
        gains = [
            (chance * np.exp(-((x - column) ** 2 + (y - row) ** 2) / (2 * reach**2))).sum()
            for row, column in np.ndindex(4, 3)
        ]
        assert float(scores[b, k]) == pytest.approx(max(gains), rel=1e-4)


def test_a_place_among_likely_ones_beats_a_lone_higher_peak() -> None:
    heatmaps = 0.5 * gaussians(torch.tensor([[[60.0, 100.0]]]), sigma=3.0)
    heatmaps[0, 0, 40, 30] = 0.6
    lone, _ = decode_heatmaps(heatmaps, 4.0)
    found, _ = decode_expected(heatmaps, 4.0, SIGMAS[:1])
    assert (lone - torch.tensor([122.0, 162.0])).abs().max() < 2
    assert (found - torch.tensor([60.0, 100.0])).abs().max() < 4


def test_expected_similarity_falls_with_doubt() -> None:
    """One sharp place, two of them, a faint one, none: each leaves less to be hoped for."""
    here, there = (gaussians(torch.tensor([[place]])) for place in ((60.0, 100.0), (140.0, 180.0)))
    doubts = torch.cat([here, here + there, 0.5 * here, 0 * here])
    scores = decode_expected(doubts, 4.0, SIGMAS[:1])[1].flatten()
    assert (scores.diff() < 0).all()
    assert scores[-1] == 0


@pytest.mark.parametrize(("row", "column"), [(0, 0), (0, 5), (7, 0), (7, 5)])
def test_a_keypoint_that_is_nowhere_is_beyond_the_likeliest_corner_with_a_score_of_nought(
    row: int, column: int
) -> None:
    heatmaps = torch.full((1, 1, 8, 6), -1.0)
    heatmaps[0, 0, row, column] = -0.01  # less unlikely, and yet less likely than an empty cell
    found, scores = decode_expected(heatmaps, 4.0, (0.2,))
    beyond = torch.tensor([28.0 if column else -4.0, 36.0 if row else -4.0])  # the middle of two cells further
    assert (found[0, 0] - beyond).abs().max() <= 4
    assert scores.tolist() == [[0.0]]


def test_heatmaps_divided_beforehand_are_read_alike() -> None:
    """Export puts the division into the head's weights."""
    heatmaps = gaussians(torch.tensor([[[60.0, 100.0]]]))
    divided = decode_expected(heatmaps / TEMPERATURE, 4.0, SIGMAS[:1], temperature=1.0)
    torch.testing.assert_close(divided, decode_expected(heatmaps, 4.0, SIGMAS[:1]))


@pytest.mark.parametrize("shuffle", [2, 4])
def test_heatmaps_are_read_alike_before_and_after_a_pixel_shuffle(shuffle: int) -> None:
    packed = torch.randn(3, 5 * shuffle**2, 4, 3)  # noise: peaks on every border too
    expected = decode_expected(F.pixel_shuffle(packed, shuffle), 4.0, SIGMAS[:5])
    torch.testing.assert_close(decode_expected(packed, 4.0, SIGMAS[:5], shuffle), expected)


@pytest.mark.parametrize("decode", [decode_heatmaps, partial(decode_expected, sigmas=SIGMAS)])
def test_nothing_but_noise_gives_finite_keypoints_and_scores_in_range(decode: Decode) -> None:
    for heatmaps in (torch.zeros(1, 17, 8, 6), torch.full((1, 17, 8, 6), -3.0), torch.randn(1, 17, 8, 6) * 50):
        found, scores = decode(heatmaps, 4.0)
        assert found.isfinite().all()
        assert ((scores >= 0) & (scores <= 1)).all()


def test_box_map_is_read_as_offset_and_logarithmic_size() -> None:
    boxes = torch.zeros(1, 4, 3, 5)
    boxes[0, :, 1, 2] = torch.tensor([0.25, -0.5, torch.log(torch.tensor(4.0)), torch.log(torch.tensor(2.0))])
    found = boxes_at_cells(boxes, 8.0)[0, 1, 2]
    centre_x, centre_y = (2 + 0.5 + 0.25) * 8, (1 + 0.5 - 0.5) * 8
    torch.testing.assert_close(found, torch.tensor([centre_x - 16, centre_y - 8, centre_x + 16, centre_y + 8]))


def test_a_box_may_be_as_large_as_a_picture_and_none_is_without_end() -> None:
    sizes = torch.tensor([60.0, 140.0, 1.0]).log()
    sizes[2] = 1000.0  # of a map that no training brings about
    boxes = torch.zeros(1, 4, 1, 3)
    boxes[0, 2:, 0] = sizes
    found = boxes_at_cells(boxes, 8.0)[0, 0]
    sides = found[:, 2:] - found[:, :2]
    torch.testing.assert_close(sides[:2], torch.tensor([[480.0, 480.0], [1120.0, 1120.0]]), rtol=1e-4, atol=0)
    assert 1120 < sides[2].max() < 2000


def test_as_many_cells_are_handed_on_as_the_service_reads() -> None:
    assert CELLS == READ


def test_the_surest_cells_come_first_neighbours_too() -> None:
    centres = torch.zeros(1, 1, 20, 20)
    centres[0, 0, 1, 1], centres[0, 0, 1, 2], centres[0, 0, 4, 4] = 0.6, 0.5, 0.9
    boxes, scores = surest_cells(centres, torch.zeros(1, 4, 20, 20), 8.0)
    assert boxes.shape == (1, CELLS, 4) and scores.shape == (1, CELLS)
    torch.testing.assert_close(scores[0, :4], torch.tensor([0.9, 0.6, 0.5, 0.0]))
    torch.testing.assert_close(boxes[0, 0], torch.tensor([32.0, 32.0, 40.0, 40.0]))


def test_a_small_input_has_fewer_cells() -> None:
    boxes, scores = surest_cells(torch.rand(2, 1, 3, 5), torch.zeros(2, 4, 3, 5), 8.0)
    assert boxes.shape == (2, 15, 4) and scores.shape == (2, 15)


@pytest.mark.parametrize("decode", [decode_heatmaps, partial(decode_expected, sigmas=SIGMAS)])
def test_batch_decodes_as_its_members_do(decode: Decode) -> None:
    heatmaps = torch.rand(3, 17, 8, 6)
    together = decode(heatmaps, 4.0)[0]
    torch.testing.assert_close(together, torch.cat([decode(one[None], 4.0)[0] for one in heatmaps]))
