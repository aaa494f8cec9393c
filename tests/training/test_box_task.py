"""What a box head should say of a region: whose it is, where that person is in the crop, and what does not count."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from app.geometry import BORDER_GREY
from model.outputs import Region
from training.augment import crop_matrices
from training.box_task import (
    CUT,
    LISTED_JITTER,
    Looks,
    Regions,
    Wanted,
    end_at_floor,
    mirrored_maps,
    random_looks,
    region_losses,
    wanted,
)
from training.data import load_coco
from training.evaluate import Network, complete_pictures
from training.losses import box_iou
from training.pictures import DataError
from training.proposals import proposed, with_listed
from training.views import Listed

SIZE_HW = (80, 60)
TALL, CROWD = (10.0, 10, 40, 90), (100.0, 0, 200, 100)
BESIDE = (45.0, 20, 75, 90)


def listed() -> Listed:
    """One picture with two people and a crowd."""
    boxes = torch.tensor([[TALL, BESIDE, CROWD]])
    valid = torch.tensor([[True, True, False]])
    return Listed(boxes, torch.full((1, 3, 2), torch.nan), valid, ~valid, torch.arange(3)[None])


def looks(*boxes: tuple[float, ...], floor: float = torch.inf) -> Looks:
    return Looks(torch.zeros(len(boxes), dtype=torch.int64), torch.tensor(boxes), torch.full((len(boxes),), floor))


def judged(region: Region, target: Wanted) -> dict[str, Tensor]:
    return region_losses(region, {f"region/{name}": getattr(target, name) for name in ("boxes", "near", "counts")})


def test_a_region_is_of_whom_it_overlaps_most_and_of_nobody_below_an_iou_of_point_three() -> None:
    at = looks((12, 10, 42, 90), (44, 15, 70, 95), (10, 10, 40, 30), (300, 300, 340, 380))
    target = wanted(listed(), at, crop_matrices(at.boxes, SIZE_HW), SIZE_HW)
    assert target.near.tolist() == [True, True, False, False]
    assert target.counts.all()
    overlaps = box_iou(target.given, target.boxes)  # the same in parts of the crop as in the picture
    expected = box_iou(at.boxes[:2], torch.tensor([TALL, BESIDE]))
    torch.testing.assert_close(overlaps[:2], expected, atol=1e-4, rtol=0)


def test_a_region_s_own_box_lies_where_an_untrained_head_says() -> None:
    at = looks(TALL)
    target = wanted(listed(), at, crop_matrices(at.boxes, SIZE_HW), SIZE_HW)
    assert target.boxes[0].tolist() == pytest.approx(target.given[0].tolist(), abs=1e-6)
    assert target.given[0, [1, 3]].tolist() == pytest.approx([0.1, 0.9], abs=1e-6)  # its height fills the crop


def test_in_a_crowd_nobody_is_right_or_wrong() -> None:
    at = looks((110, 20, 150, 90), (80, 10, 110, 90))
    target = wanted(listed(), at, crop_matrices(at.boxes, SIZE_HW), SIZE_HW)
    assert target.counts.tolist() == [False, True]


def test_a_mirrored_crop_has_a_mirrored_box() -> None:
    at = looks(*[(14.0, 10, 44, 90)] * 40)
    maps = mirrored_maps(at.boxes, SIZE_HW, torch.Generator().manual_seed(0))
    mirrored = maps[:, 0, 0] < 0
    assert 10 < mirrored.sum() < 30
    target = wanted(listed(), at, maps, SIZE_HW)
    left, right = target.boxes[~mirrored][0], target.boxes[mirrored][0]
    torch.testing.assert_close(right, torch.stack([1 - left[2], left[1], 1 - left[0], left[3]]))


def test_below_the_floor_there_is_no_picture_and_no_person() -> None:
    at = looks((10.0, 10, 40, 50), floor=50.0)
    maps = crop_matrices(at.boxes, SIZE_HW)
    target = wanted(listed(), at, maps, SIZE_HW)
    assert target.near[0]
    assert target.boxes[0, 3].item() == pytest.approx(0.9)  # ends where the picture does, not at 90
    crop = end_at_floor(torch.zeros(1, 3, *SIZE_HW), at.floor, maps)[0, 0]
    rows = (crop == BORDER_GREY).all(1)
    assert rows.tolist() == [False] * 72 + [True] * 8
    assert wanted(listed(), looks((10.0, 10, 40, 50), floor=5.0), maps, SIZE_HW).near.tolist() == [False]


def test_without_a_floor_crops_stay_as_they_are() -> None:
    at, crops = looks(TALL), torch.rand(1, 3, *SIZE_HW)
    assert torch.equal(end_at_floor(crops.clone(), at.floor, crop_matrices(at.boxes, SIZE_HW)), crops)


def test_random_looks_are_near_their_regions_and_some_end_early() -> None:
    regions = Regions(torch.zeros(1, dtype=torch.int64), torch.tensor([TALL]), torch.tensor([0.1]))
    rows = torch.zeros(2000, dtype=torch.int64)
    found = random_looks(regions, rows, torch.Generator().manual_seed(0))
    cut = found.floor.isfinite()
    assert cut.float().mean().item() == pytest.approx(CUT, abs=0.03)
    assert (found.boxes[cut, 3] <= found.floor[cut]).all()
    whole = found.boxes[~cut]
    spread = whole.std(0) / torch.tensor([30.0, 80, 30, 80])
    assert ((spread > 0.08) & (spread < 0.16)).all()  # a middle and a half side, each off by a tenth of the side
    stretched = ((whole[:, 2:] - whole[:, :2]) / torch.tensor([30.0, 80])).log()
    assert ((stretched.std(0) - 0.1).abs() < 0.01).all() and (stretched.mean(0).abs() < 0.01).all()


def region(boxes: Tensor, fit: Tensor) -> Region:
    return Region(boxes.clone().requires_grad_(), fit.clone().requires_grad_())


def test_fit_is_taught_the_iou_of_the_answered_box_and_zero_where_nobody_is() -> None:
    at = looks(TALL, (300.0, 300, 340, 380), (110, 20, 150, 90))
    target = wanted(listed(), at, crop_matrices(at.boxes, SIZE_HW), SIZE_HW)
    answered = target.boxes.clone()
    answered[0, 3] = answered[0, 1] + (answered[0, 3] - answered[0, 1]) / 2  # half of the person: an IoU of .5
    best = torch.logit(torch.tensor([0.5, 1e-6, 0.9]))
    least = judged(region(answered, best), target)["fit"]
    for other in ((0.6, 1e-6, 0.9), (0.4, 1e-6, 0.9), (0.5, 0.1, 0.9)):
        assert judged(region(answered, torch.logit(torch.tensor(other))), target)["fit"] > least + 1e-3
    crowd_differs = judged(region(answered, torch.logit(torch.tensor([0.5, 1e-6, 0.1]))), target)["fit"]
    assert crowd_differs.item() == pytest.approx(least.item())


def test_a_box_is_not_moved_for_the_fit_that_was_said_of_it() -> None:
    at = looks(TALL, (300.0, 300, 340, 380))
    target = wanted(listed(), at, crop_matrices(at.boxes, SIZE_HW), SIZE_HW)
    answer = region(target.boxes + 0.05, torch.ones(2))
    judged(answer, target)["fit"].backward()
    assert answer.fit.grad is not None and answer.fit.grad.all()
    assert answer.boxes.grad is None or not answer.boxes.grad.any()


def test_boxes_are_taught_where_somebody_is_only() -> None:
    at = looks(TALL, (300.0, 300, 340, 380))
    target = wanted(listed(), at, crop_matrices(at.boxes, SIZE_HW), SIZE_HW)
    answer = region(target.boxes + 0.05, torch.zeros(2))
    judged(answer, target)["giou"].backward()
    assert answer.boxes.grad is not None
    assert answer.boxes.grad[0].abs().sum() > 0 and answer.boxes.grad[1].abs().sum() == 0
    assert judged(region(target.boxes, torch.zeros(2)), target)["giou"].item() == pytest.approx(0, abs=1e-6)


def detector(boxes: list[list[float]], scores: list[float]) -> Network:
    """Finds the same in every picture of 160x128 or 128x176; its input is the picture, more or less."""
    return Network((176, 176), lambda pictures: [np.float32([boxes]), np.float32([scores])])


def test_regions_are_what_the_detector_is_sure_enough_of_and_the_listed_people(drawn_folder: Path) -> None:
    dataset = load_coco(drawn_folder, "train")
    pictures = complete_pictures(dataset)[:4]
    found = proposed(
        detector([[20, 30, 80, 120], [0, 0, 1, 1], [5, 5, 90, 90]], [0.9, 0.8, 0.2]), dataset, pictures, 0.5
    )
    assert found.picture.tolist() == pictures  # one each: the second is too small, the third too unsure
    sizes = dataset.pictures.size_wh[found.picture]
    assert (found.boxes >= 0).all() and (found.boxes[:, 2:] <= sizes).all()
    both = with_listed(found, dataset, pictures)
    assert len(both) == 4 + 2 + 1 + 2 + 1
    assert torch.equal(both.boxes[4:6], dataset.people.boxes[dataset.people.picture == pictures[0]])
    assert (both.jitter[4:] == LISTED_JITTER).all() and (both.jitter[:4] < LISTED_JITTER).all()


def test_a_detector_that_finds_nobody_is_an_error(drawn_folder: Path) -> None:
    dataset = load_coco(drawn_folder, "train")
    with pytest.raises(DataError, match=r"finds nobody of score 0\.5 in 24 pictures"):
        proposed(detector([[20, 30, 80, 120]], [0.4]), dataset, complete_pictures(dataset), 0.5)
