import math

import numpy as np
import pytest
import torch

from training.losses import Heatmaps, box_iou, giou_loss, heatmap_mse, pixelwise_kl, quality_focal, ramp_up


def random_maps(seed: int) -> torch.Tensor:
    return torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(seed))


def mse(student: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return heatmap_mse(Heatmaps(student, 1.0), Heatmaps(target, 1.0), weight)


def kl(student: torch.Tensor, teacher: torch.Tensor, weight: torch.Tensor, temperature: float) -> torch.Tensor:
    return pixelwise_kl(Heatmaps(student, temperature), Heatmaps(teacher, temperature), weight)


def softmax_of(image: np.ndarray, temperature: float) -> np.ndarray:
    weights = np.exp(image / temperature)
    return weights / weights.sum()


def test_mse_is_the_squared_error_in_parts_of_the_targets_energy() -> None:
    heatmaps, target = random_maps(0), random_maps(1)
    weight = torch.tensor([[1.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
    error = energy = 0.0
    for b in range(2):
        for k in range(3):
            for y in range(4):
                for x in range(5):
                    difference = float(heatmaps[b, k, y, x] - target[b, k, y, x])
                    error += float(weight[b, k]) * difference**2
                    energy += float(weight[b, k]) * float(target[b, k, y, x]) ** 2
    assert mse(heatmaps, target, weight).item() == pytest.approx(error / energy, rel=1e-5)


def test_predicting_nothing_costs_exactly_one_at_any_resolution() -> None:
    for target in (random_maps(0), random_maps(0).repeat(1, 1, 3, 3)):
        assert mse(torch.zeros_like(target), target, torch.ones(2, 3)).item() == pytest.approx(1.0)


def test_unlabelled_keypoints_cost_nothing() -> None:
    heatmaps, target, weight = random_maps(0), random_maps(1), torch.tensor([[1.0, 0.0, 1.0], [1.0, 1.0, 1.0]])
    changed = heatmaps.clone()
    changed[0, 1] += 100
    assert mse(changed, target, weight) == mse(heatmaps, target, weight)
    assert kl(changed, target, weight, 0.1) == kl(heatmaps, target, weight, 0.1)


@pytest.mark.parametrize("temperature", [0.05, 0.1, 1.0])
def test_kl_is_summed_over_pixels_and_averaged_over_keypoints(temperature: float) -> None:
    student, teacher = random_maps(0), random_maps(1)
    weight = torch.tensor([[1.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
    total = 0.0
    for b in range(2):
        for k in range(3):
            p = softmax_of(teacher[b, k].double().numpy(), temperature)
            q = softmax_of(student[b, k].double().numpy(), temperature)
            total += float(weight[b, k]) * float((p * np.log(p / q)).sum())
    assert kl(student, teacher, weight, temperature).item() == pytest.approx(total / 4, rel=1e-4)


def test_kl_vanishes_for_equal_heatmaps_and_pulls_the_student_towards_the_teacher() -> None:
    teacher, weight = random_maps(1), torch.ones(2, 3)
    assert kl(teacher, teacher, weight, 0.1).item() == pytest.approx(0.0, abs=1e-6)
    student = random_maps(0).requires_grad_()
    before = kl(student, teacher, weight, 0.1)
    (gradient,) = torch.autograd.grad(before, student)
    assert kl(student - 1e-3 * gradient, teacher, weight, 0.1) < before


def test_ramp_rises_from_almost_nothing_to_one_and_stays() -> None:
    assert ramp_up(0.0) == pytest.approx(math.exp(-5))
    assert ramp_up(0.5) == pytest.approx(math.exp(-1.25))
    assert ramp_up(1.0) == ramp_up(3.0) == 1.0


def test_quality_focal_loss_follows_its_formula() -> None:
    p = torch.tensor([[[[0.7, 0.2], [0.4, 0.1]]]])
    target = torch.tensor([[[[1.0, 0.6], [0.0, 0.0]]]])
    overlap = torch.tensor([[[0.8, 0.5], [0.9, 0.0]]])

    def cell(p: float, quality: float) -> float:
        return -((quality - p) ** 2) * (quality * math.log(p) + (1 - quality) * math.log(1 - p))

    by_hand = cell(0.7, 0.8) + cell(0.2, 0.3) + cell(0.4, 0.0) + cell(0.1, 0.0)
    assert quality_focal(p, target, overlap, torch.ones(1)).item() == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.parametrize("overlap", [0.9, 0.4])
def test_a_score_is_drawn_to_how_well_the_box_fits_and_not_the_box_to_the_score(overlap: float) -> None:
    overlaps = torch.full((1, 1, 1), overlap, requires_grad=True)
    scores = torch.linspace(0.05, 0.95, 19)
    losses = [
        quality_focal(score.view(1, 1, 1, 1), torch.ones(1, 1, 1, 1), overlaps, torch.ones(1)) for score in scores
    ]
    assert scores[torch.stack(losses).argmin()].item() == pytest.approx(overlap)
    assert not torch.stack(losses).requires_grad


def test_negatives_of_partly_annotated_pictures_weigh_less_and_their_people_as_much() -> None:
    p, bell = torch.full((1, 1, 1, 2), 0.5), torch.tensor([[[[1.0, 0.0]]]])
    overlap = torch.tensor([[[0.5, 0.0]]])  # the score of the one person is what it should be
    full, fifth = (quality_focal(p, bell, overlap, torch.tensor([weight])) for weight in (1.0, 0.2))
    assert fifth.item() == pytest.approx(full.item() / 5)
    person_alone = torch.tensor([[[[1.0]]]])
    sure = [quality_focal(p[..., :1], person_alone, torch.ones(1, 1, 1), torch.tensor([weight])) for weight in (1, 0.2)]
    assert sure[0].item() == pytest.approx(sure[1].item())


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ([0.0, 0.0, 2.0, 2.0], 0.0),  # the same box
        ([0.0, 0.0, 2.0, 1.0], 0.5),  # half of it: IoU 1/2, hull filled
        ([4.0, 0.0, 6.0, 2.0], 1 + 1 / 3),  # apart: IoU 0, a third of the hull empty
    ],
)
def test_giou_of_boxes_worked_out_by_hand(box: list[float], expected: float) -> None:
    target = torch.tensor([[0.0, 0.0, 2.0, 2.0]])
    assert giou_loss(torch.tensor([box]), target, torch.ones(1)).item() == pytest.approx(expected, abs=1e-5)


def test_overlap_of_boxes_worked_out_by_hand() -> None:
    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [1.0, 0.0, 3.0, 2.0], [4.0, 0.0, 6.0, 2.0]])
    assert box_iou(boxes, torch.tensor([0.0, 0.0, 2.0, 2.0])).tolist() == pytest.approx([1.0, 1 / 3, 0.0])
