import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from training.config import Augment, Branch, Encoder, Recipe, RecipeError, Stage
from training.data import Dataset, load_coco
from training.detector_task import PARTIAL_NEGATIVE_WEIGHT, DetectorTask, build_model
from training.joints import COCO, MPII
from training.train import seeded
from training.views import (
    Listed,
    Seen,
    backgrounds,
    close_ups,
    listed_people,
    mosaic,
    random_letterboxes,
    seen_people,
    transform_boxes,
)

AS_IT_IS = torch.tensor([[[1.0, 0, 0], [0, 1, 0]]], dtype=torch.float64)
UNKNOWN = (math.nan, math.nan)
STAGE = Stage(1, 128, 128, batch=4)
RECIPE = Recipe(
    "views", "detector", (STAGE,), (Branch("a", (16, 16)),), "a", Encoder((8, 8, 16, 16, 16), (0, 0, 0, 0, 0))
)


def listed(*people: tuple[tuple[float, ...], tuple[float, float]]) -> Listed:
    """One picture with people of these boxes and heads."""
    boxes, heads = (torch.tensor([values]) for values in zip(*people, strict=True))
    everybody = torch.ones(1, len(people), dtype=torch.bool)
    return Listed(boxes, heads, everybody, ~everybody, everybody.long())


def in_view(people: Listed, size_hw: tuple[int, int] = (100, 100)) -> Seen:
    """The picture's upper left corner."""
    return seen_people(people, torch.tensor([0]), AS_IT_IS, size_hw)


def test_the_people_of_every_picture_are_padded_to_the_most(drawn_folder: Path) -> None:
    dataset = load_coco(drawn_folder, "train")
    people = listed_people(dataset)
    assert people.valid.sum(1).tolist() == [2, 1] * 12
    in_order = dataset.people.picture.argsort(stable=True)
    assert torch.equal(people.boxes[people.valid], dataset.people.boxes[in_order])
    faces = dataset.people.keypoints[in_order][:, : COCO.names.index("left_shoulder")]
    torch.testing.assert_close(people.heads[people.valid], faces.mean(1))


def test_a_head_needs_two_labelled_points_of_the_face(drawn_folder: Path) -> None:
    dataset = load_coco(drawn_folder, "train")
    dataset.people.labelled[0, 1:] = False  # the nose alone
    dataset.people.labelled[1, 2:] = False  # nose and one eye
    people = listed_people(dataset)
    assert people.heads[0, 0].isnan().all()
    torch.testing.assert_close(people.heads[0, 1], dataset.people.keypoints[1, :2].mean(0))


def test_joints_without_a_face_know_no_heads(drawn_folder: Path) -> None:
    people = listed_people(dataclasses.replace(load_coco(drawn_folder, "train"), joints=MPII))
    assert people.heads.isnan().all()


def test_boxes_are_cut_to_the_view() -> None:
    seen = in_view(listed(((-20, 10, 60, 150), UNKNOWN)))
    assert seen.boxes.tolist() == [[[0, 10, 60, 100]]]
    assert seen.valid.tolist() == [[True]]


def test_a_tall_view_is_as_wide_as_it_is_and_as_high() -> None:
    seen = in_view(listed(((10, 10, 90, 120), UNKNOWN), ((50, 60, 150, 400), (70, 90))), (100, 60))
    assert seen.boxes.tolist() == [[[10, 10, 60, 100], [50, 60, 60, 100]]]
    assert seen.valid.tolist() == [[True, False]]  # the second one's head is to the right of it


def test_crowds_are_listed_in_their_pictures_and_never_to_be_found(drawn_folder: Path) -> None:
    dataset = load_coco(drawn_folder, "train")
    order = torch.randperm(len(dataset.people), generator=torch.Generator().manual_seed(0))
    people = dataset.people.subset(order.numpy())  # not by picture
    people.crowd[::3] = True
    everybody = listed_people(dataclasses.replace(dataset, people=people))
    assert int(everybody.ignored.sum()) == int(people.crowd.sum())
    assert int(everybody.valid.sum()) == int((~people.crowd).sum())
    rows = torch.arange(len(dataset.pictures))[:, None].expand_as(everybody.person)
    for kind, crowd in ((everybody.valid, False), (everybody.ignored, True)):
        whose = everybody.person[kind]
        assert (people.crowd[whose] == crowd).all() and torch.equal(people.picture[whose], rows[kind])
        assert torch.equal(everybody.boxes[kind], people.boxes[whose])
    seen = seen_people(everybody, torch.arange(len(rows)), AS_IT_IS.repeat(len(rows), 1, 1), (176, 160))
    assert torch.equal(seen.ignored, everybody.ignored) and torch.equal(seen.valid, everybody.valid)


def test_no_background_is_taken_from_a_crowd() -> None:
    crowd = listed(((0, 0, 100, 200), UNKNOWN))
    crowd = crowd._replace(valid=crowd.ignored, ignored=crowd.valid)  # the left half of the picture
    rows = torch.zeros(200, dtype=torch.int64)
    places = backgrounds(crowd, torch.tensor([[200, 200]]), rows, torch.Generator().manual_seed(0))
    found = places[places.isfinite().all(1)]
    assert len(found) > 50 and (found[:, 0] >= 100).all()


def test_who_shows_too_little_is_neither_asked_for_nor_forbidden() -> None:
    seen = in_view(listed(((50, 80, 90, 280), UNKNOWN), ((200, 10, 240, 90), UNKNOWN)))
    assert seen.valid.tolist() == [[False, False]]
    assert seen.ignored.tolist() == [[True, False]]  # a tenth of the first is in view, of the second nothing


def test_a_head_in_view_is_somebody_however_little_of_the_body_is() -> None:
    seen = in_view(listed(((20, 60, 90, 460), (55, 80)), ((20, 60, 90, 460), (55, 110))))
    assert seen.valid.tolist() == [[True, False]]
    assert seen.ignored.tolist() == [[False, True]]


def test_nobody_smaller_than_eight_pixels_is_asked_for_or_called_background() -> None:
    seen = in_view(listed(((10, 10, 14, 17), UNKNOWN), ((10, 10, 14, 19), UNKNOWN)))
    assert seen.valid.tolist() == [[False, True]]
    assert seen.ignored.tolist() == [[True, False]]


def test_a_turned_box_stays_around_the_middles_of_its_sides() -> None:
    quarter = torch.tensor([[[0.0, -1, 100], [1, 0, 0]]], dtype=torch.float64)
    assert transform_boxes(torch.tensor([[[10.0, 20, 30, 80]]]), quarter).tolist() == [[[20, 10, 80, 30]]]


def test_letterboxes_hold_to_their_scales() -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = torch.tensor([[400, 300]]).repeat(200, 1)
    maps = random_letterboxes(sizes, (200, 200), (0.5, 2.0), Augment(), generator)
    zoom = torch.linalg.det(maps[:, :, :2]).abs().sqrt()
    assert 0.25 <= zoom.min() < 0.3  # half of 200 / 400
    assert 0.9 < zoom.max() <= 1.0


@pytest.mark.parametrize("flip", [0.0, 0.3])
def test_letterboxes_are_turned_a_little_to_either_side_and_mirrored_as_often_as_asked(flip: float) -> None:
    sizes, augment = torch.tensor([[400, 300]]).repeat(2000, 1), Augment(flip=flip, rotation_deg=30)
    maps = random_letterboxes(sizes, (200, 200), (0.5, 2.0), augment, torch.Generator().manual_seed(0))
    angles = torch.rad2deg(torch.atan2(maps[:, 1, 0], maps[:, 1, 1]))
    assert angles.max() == pytest.approx(10, abs=0.3) and angles.min() == pytest.approx(-10, abs=0.3)
    assert angles.mean() == pytest.approx(0, abs=0.3) and angles.abs().median() < 2.5
    assert (torch.linalg.det(maps[:, :, :2]) < 0).double().mean() == pytest.approx(flip, abs=0.04)


def test_a_close_up_shows_the_head_of_the_largest_person_large() -> None:
    small, large, headless = (
        ((0, 0, 60, 120), (30, 10)),
        ((200, 100, 300, 400), (250, 130)),
        ((0, 0, 500, 500), UNKNOWN),
    )
    people, generator = listed(small, large, headless), torch.Generator().manual_seed(0)
    maps = close_ups(people, torch.zeros(200, dtype=torch.int64), (320, 320), Augment(), generator)
    zoom = torch.linalg.det(maps[:, :, :2]).abs().sqrt()
    assert zoom.min() >= 320 / (1.2 * 300)
    assert zoom.max() <= 320 / (0.5 * 300)
    heads = (maps @ torch.tensor([250.0, 130, 1], dtype=torch.float64)) / 320
    assert (heads > 0.1).all()
    assert (heads < 0.8).all()


@pytest.mark.parametrize("person", [((0, 0, 60, 99), (30, 10)), ((0, 0, 60, 200), UNKNOWN)], ids=["small", "headless"])
def test_there_is_no_close_up_of_who_is_small_or_has_no_head(
    person: tuple[tuple[float, ...], tuple[float, float]],
) -> None:
    maps = close_ups(listed(person), torch.tensor([0]), (320, 320), Augment(), torch.Generator())
    assert maps.isnan().all()


def test_a_mosaic_puts_everybody_where_their_picture_is() -> None:
    crops = torch.arange(4).view(4, 1, 1, 1).expand(4, 3, 50, 60)
    seen = Seen(torch.tensor([[[1.0, 2, 3, 4]]]).repeat(4, 1, 1), torch.ones(4, 1).bool(), torch.zeros(4, 1).bool())
    picture, people, partial = mosaic(crops, seen, torch.tensor([False, True, False, False]), (50, 60))
    assert partial.tolist() == [[[False, True], [False, False]]]
    assert picture[0, 0, ::50, ::60].tolist() == [[0, 1], [2, 3]]
    assert people.boxes.tolist() == [[[1, 2, 3, 4], [61, 2, 63, 4], [1, 52, 3, 54], [61, 52, 63, 54]]]
    assert people.valid.shape == people.ignored.shape == (1, 4)


def test_each_of_several_mosaics_knows_its_own_partial_quarters() -> None:
    """A picture is black where it is annotated completely, and white where it is not."""
    partial = torch.rand(12, generator=torch.Generator().manual_seed(0)) < 0.5
    crops = partial.view(12, 1, 1, 1).expand(12, 3, 50, 60)
    nobody = Seen(torch.zeros(12, 1, 4), torch.zeros(12, 1).bool(), torch.zeros(12, 1).bool())
    pictures, _, told = mosaic(crops, nobody, partial, (50, 60))
    assert told.shape == (3, 2, 2) and torch.equal(pictures[:, 0, ::50, ::60], told)


def centre_loss_by_cell(targets: dict[str, Tensor], recipe: Recipe, dataset: Dataset) -> Tensor:
    """What a surer belief in a person at each cell (H, W) adds to the loss."""
    task, model = DetectorTask(recipe, dataset, np.zeros(len(dataset.pictures), bool)), build_model(recipe)
    outputs = model(torch.zeros(1, 3, STAGE.height, STAGE.width))
    final = torch.full_like(outputs.branches["a"].final, 0.3).requires_grad_()
    branch = outputs.branches["a"]._replace(final=final)
    terms = task.losses(outputs._replace(branches={"a": branch}), targets, STAGE, 0.0)
    (gradient,) = torch.autograd.grad(terms["quality/a"], final)
    return gradient[0, 0]


def test_where_somebody_is_cut_off_a_find_is_not_punished(drawn_folder: Path) -> None:
    targets = {
        "boxes": torch.tensor([[[0.0, 0, 64, 64]]]),
        "valid": torch.tensor([[False]]),
        "ignored": torch.tensor([[True]]),
        "partial": torch.zeros(1, 1, 1, dtype=torch.bool),
    }
    gradient = centre_loss_by_cell(targets, RECIPE, load_coco(drawn_folder, "train"))
    assert gradient[:8, :8].abs().max() == 0  # 64 pixels of stride 8
    assert (gradient[8:] > 0).all()
    assert (gradient[:, 8:] > 0).all()


def test_a_mosaics_partly_annotated_quarters_weigh_less(drawn_folder: Path) -> None:
    targets = {
        "boxes": torch.zeros(1, 1, 4),
        "valid": torch.tensor([[False]]),
        "ignored": torch.tensor([[False]]),
        "partial": torch.tensor([[[False, True], [False, False]]]),
    }
    gradient = centre_loss_by_cell(targets, RECIPE, load_coco(drawn_folder, "train"))
    torch.testing.assert_close(gradient[:8, 8:], PARTIAL_NEGATIVE_WEIGHT * gradient[:8, :8])
    torch.testing.assert_close(gradient[8:], gradient[:8, :8].repeat(1, 2))


def partly(dataset: Dataset, every: int) -> Dataset:
    """Every so many pictures are of a source that does not annotate everybody."""
    sources = np.where(np.arange(len(dataset.sources)) % every == 0, "lspet", "coco")
    return dataclasses.replace(dataset, sources=sources)


def test_partly_annotated_pictures_are_mixed_in_and_not_counted(drawn_folder: Path) -> None:
    dataset, nobody_held = partly(load_coco(drawn_folder, "train"), 2), np.zeros(24, bool)
    recipe = dataclasses.replace(RECIPE, augment=Augment(mosaic=0.0))
    task = DetectorTask(recipe, dataset, nobody_held)
    assert len(task) == 12
    shares = [
        task.batch(torch.arange(12), STAGE, seeded(0, 0, step))[1]["partial"].float().mean() for step in range(40)
    ]
    assert 0.1 < float(torch.stack(shares).mean()) < 0.2  # PARTIAL_SHARE


def test_with_nothing_else_partly_annotated_pictures_are_the_examples(drawn_folder: Path) -> None:
    task = DetectorTask(RECIPE, partly(load_coco(drawn_folder, "train"), 1), np.arange(24) < 4)
    assert len(task) == 20
    assert len(task.held) == 4


def test_only_completely_annotated_pictures_are_scored(drawn_folder: Path) -> None:
    dataset = partly(load_coco(drawn_folder, "train"), 2)
    task = DetectorTask(RECIPE, dataset, np.ones(24, bool))
    assert task.held.tolist() == list(range(1, 24, 2))


def test_a_mosaic_knows_which_of_its_quarters_are_partly_annotated(drawn_folder: Path) -> None:
    dataset = partly(load_coco(drawn_folder, "train"), 2)
    task = DetectorTask(dataclasses.replace(RECIPE, augment=Augment(mosaic=1.0)), dataset, np.zeros(24, bool))
    _, targets = task.batch(torch.arange(8), STAGE, seeded(0, 0, 1))
    assert targets["partial"].shape == (8, 2, 2)
    assert targets["boxes"].shape == targets["boxes"].shape[:1] + (8, 4)  # four pictures of at most two people


def test_a_sixth_level_of_the_encoder_needs_sides_of_64() -> None:
    six = Encoder((8, 8, 16, 16, 16, 16), (0, 0, 0, 0, 0, 0))
    recipe = dataclasses.replace(RECIPE, encoder=six, branches=(Branch("a", (16, 16, 16)),))
    final = build_model(recipe)(torch.zeros(1, 3, 128, 192)).branches["a"].final
    assert final.shape == (1, 1, 16, 24)  # stride 8: three levels up from 64
    with pytest.raises(RecipeError, match="divisible by 64, got 96x128"):
        dataclasses.replace(recipe, stages=(Stage(1, 96, 128),))
