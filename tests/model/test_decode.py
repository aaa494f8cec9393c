import pytest
import torch
import torch.nn.functional as F

from model.decode import boxes_at_cells, decode_centres, decode_heatmaps
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


@pytest.mark.parametrize("shuffle", [2, 4])
def test_heatmaps_are_read_alike_before_and_after_a_pixel_shuffle(shuffle: int) -> None:
    packed = torch.randn(3, 5 * shuffle**2, 4, 3)  # noise: peaks on every border too
    expected = decode_heatmaps(F.pixel_shuffle(packed, shuffle), 4.0)
    torch.testing.assert_close(decode_heatmaps(packed, 4.0, shuffle), expected)


def test_nothing_but_noise_gives_finite_keypoints_and_scores_in_range() -> None:
    for heatmaps in (torch.zeros(1, 17, 8, 6), torch.full((1, 17, 8, 6), -3.0), torch.randn(1, 17, 8, 6) * 5):
        found, scores = decode_heatmaps(heatmaps, 4.0)
        assert found.isfinite().all()
        assert ((scores >= 0) & (scores <= 1)).all()


def test_box_map_is_read_as_offset_and_logarithmic_size() -> None:
    boxes = torch.zeros(1, 4, 3, 5)
    boxes[0, :, 1, 2] = torch.tensor([0.25, -0.5, torch.log(torch.tensor(4.0)), torch.log(torch.tensor(2.0))])
    found = boxes_at_cells(boxes, 8.0)[0, 1, 2]
    centre_x, centre_y = (2 + 0.5 + 0.25) * 8, (1 + 0.5 - 0.5) * 8
    torch.testing.assert_close(found, torch.tensor([centre_x - 16, centre_y - 8, centre_x + 16, centre_y + 8]))


def test_only_local_maxima_are_people_best_first() -> None:
    centres = torch.zeros(1, 1, 6, 6)
    centres[0, 0, 1, 1], centres[0, 0, 1, 2] = 0.6, 0.5  # neighbours: one person
    centres[0, 0, 4, 4] = 0.9
    boxes, scores = decode_centres(centres, torch.zeros(1, 4, 6, 6), 8.0, top_k=4)
    torch.testing.assert_close(scores, torch.tensor([[0.9, 0.6, 0.0, 0.0]]))
    torch.testing.assert_close(boxes[0, 0], torch.tensor([32.0, 32.0, 40.0, 40.0]))


def test_batch_decodes_as_its_members_do() -> None:
    heatmaps = torch.rand(3, 17, 8, 6)
    together = decode_heatmaps(heatmaps, 4.0)[0]
    torch.testing.assert_close(together, torch.cat([decode_heatmaps(one[None], 4.0)[0] for one in heatmaps]))
