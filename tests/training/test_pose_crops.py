"""Poses learnt from what a detector proposed: whom such a crop teaches, and who teaches none."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from small_runs import POSE, run

from app.geometry import BORDER_GREY
from training.box_task import NEAR_IOU, Regions
from training.config import Augment, Recipe, RecipeError, Stage
from training.data import Dataset, load_coco
from training.distributed import Group
from training.losses import box_iou
from training.pose_crops import FAR_AWAY, SHOWS_IOU, Crops, PoseCrops, keypoint_targets
from training.pose_task import PoseTask
from training.train import Start, check_regions, prepare, seeded

SIZE_HW = (96, 64)
STAGE = Stage(1, 96, 64, batch=8)
PLAIN = Augment(rotation_deg=0, colour=0, occlusion=0, low_light=0, noise=0, blur=0, half_body=0)
RECIPE = dataclasses.replace(POSE, stages=(STAGE,), region_share=0.5, augment=PLAIN)


@pytest.fixture
def dataset(drawn_folder: Path) -> Dataset:
    return load_coco(drawn_folder, "train")


def own_boxes(dataset: Dataset, jitter: float = 0.0) -> Regions:
    """Where the people are."""
    people = dataset.people
    return Regions(people.picture, people.boxes, torch.full((len(people),), jitter))


def moved(dataset: Dataset, by: float) -> Regions:
    """As far beside the people, to the right, as `by` of their widths."""
    boxes = dataset.people.boxes
    aside = (boxes[:, 2] - boxes[:, 0]) * by
    return Regions(dataset.people.picture, boxes + torch.stack([aside, 0 * aside] * 2, 1), torch.zeros(len(boxes)))


def looked(dataset: Dataset, regions: Regions, count: int = 200) -> tuple[Crops, torch.Tensor]:
    """Crops of regions, and whose they are."""
    crops, wanted = PoseCrops(dataset, np.ones(len(dataset.people), bool), PLAIN, regions).of_regions(
        count, SIZE_HW, torch.Generator().manual_seed(0)
    )
    return crops, wanted.person


def test_a_region_around_somebody_teaches_that_person_s_pose(dataset: Dataset) -> None:
    crops, whose = looked(dataset, own_boxes(dataset))
    assert len(set(whose.tolist())) > 30
    assert torch.equal(crops.picture, dataset.people.picture[whose])
    whole = ~crops.floor.isfinite()
    assert torch.equal(crops.labelled[whole], dataset.people.labelled[whose][whole])
    targets = keypoint_targets(crops, dataset.joints)
    inside = (targets["keypoints"] >= 0) & (targets["keypoints"] < torch.tensor([64, 96]))
    assert inside[whole].all()  # the crop is a little larger than the box


def test_in_a_mirrored_crop_left_is_right(dataset: Dataset) -> None:
    crops, _ = looked(dataset, own_boxes(dataset))
    assert 40 < crops.mirrored.sum() < 160
    left, right = keypoint_targets(crops, dataset.joints)["keypoints"][:, (5, 6)].unbind(1)
    assert (left[:, 0] > right[:, 0]).all()  # drawn people face us: their left is on the picture's right


def test_a_region_beside_everybody_teaches_no_pose(dataset: Dataset) -> None:
    beside = moved(dataset, by=0.35)
    without_noses = dataset.people.labelled.clone()
    without_noses[1:, 0] = False  # out of sight, for all but one
    dataset = dataclasses.replace(dataset, people=dataclasses.replace(dataset.people, labelled=without_noses))
    crops, whose = looked(dataset, beside)
    overlap = box_iou(beside.boxes, dataset.people.boxes)[whose]
    assert ((overlap > NEAR_IOU) & (overlap < SHOWS_IOU)).all()  # whose box it is can be told, but not whose pose
    assert not crops.labelled.any() and not crops.absent.any()  # neither where it is nor that it is nowhere
    crops, whose = looked(dataset, own_boxes(dataset))
    assert torch.equal(crops.absent[:, 0], whose > 0)


def test_below_the_floor_there_is_no_keypoint(dataset: Dataset) -> None:
    crops, _ = looked(dataset, own_boxes(dataset))
    cut = crops.floor.isfinite()
    assert 10 < cut.sum() < 60
    points, labelled = (keypoint_targets(crops, dataset.joints)[name][cut] for name in ("keypoints", "labelled"))
    gone = (crops.keypoints[..., 1] >= crops.floor[:, None])[cut]
    flip = torch.tensor(dataset.joints.flip_index)
    gone = torch.where(crops.mirrored[cut][:, None], gone[:, flip], gone)
    assert (points[gone] == FAR_AWAY).all() and not (points[~gone] == FAR_AWAY).any()
    assert labelled[gone].any()  # and its heatmap shall be empty, not anything


def task(dataset: Dataset, recipe: Recipe = RECIPE) -> PoseTask:
    return PoseTask(recipe, dataset, np.zeros(len(dataset.pictures), bool), own_boxes(dataset, jitter=0.05))


def test_a_share_of_every_batch_is_of_regions(dataset: Dataset) -> None:
    learning = PoseTask(RECIPE, dataset, np.zeros(len(dataset.pictures), bool), moved(dataset, by=0.35))
    images, targets = learning.batch(torch.arange(8), STAGE, seeded(0, 0, 1))
    assert images.shape == (8, 3, *SIZE_HW)
    assert targets["labelled"].any(1).tolist() == [False] * 4 + [True] * 4  # the regions first, beside everybody here
    shapes = {name: tuple(targets[f"region/{name}"].shape) for name in ("boxes", "near", "counts")}
    assert shapes == {"boxes": (4, 4), "near": (4,), "counts": (4,)}


def test_processes_share_the_regions_of_a_batch(dataset: Dataset) -> None:
    three, counts = dataclasses.replace(RECIPE, region_share=0.4), []  # 3 of 8
    for rank in range(2):
        nobody_held = np.zeros(len(dataset.pictures), bool)
        half = PoseTask(three, dataset, nobody_held, own_boxes(dataset), group=Group(rank, 2))
        counts.append(len(half.batch(torch.arange(4), STAGE, seeded(0, 0, 1))[1]["region/boxes"]))
    assert counts == [2, 1]


def test_a_process_without_regions_is_refused_before_it_breaks_the_others() -> None:
    with pytest.raises(RecipeError, match="1 regions a batch for 2 processes"):
        check_regions(dataclasses.replace(RECIPE, region_share=0.1), Group(0, 2))


def test_where_the_picture_ends_early_the_crop_is_grey(dataset: Dataset) -> None:
    images, targets = task(dataset).batch(torch.arange(30), Stage(1, 96, 64, batch=30), seeded(0, 0, 1))
    cut = (targets["keypoints"] == FAR_AWAY).flatten(1).any(1)
    assert 0 < cut.sum() < 10 and not cut[15:].any()
    assert (images[cut, :, -1] == BORDER_GREY).all()


def test_every_branch_s_box_head_learns_from_the_regions_alone(dataset: Dataset) -> None:
    learning = task(dataset)
    images, targets = learning.batch(torch.arange(8), STAGE, seeded(0, 0, 1))
    outputs = learning.build()(images)
    terms = learning.losses(outputs, targets, STAGE, kd_weight=1.0)
    assert {"giou/a", "fit/a", "giou/b", "fit/b"} <= terms.keys()
    for name in ("a", "b"):
        answer = outputs.branches[name].region
        assert answer is not None
        slopes = torch.autograd.grad(terms[f"giou/{name}"] + terms[f"fit/{name}"], list(answer), retain_graph=True)
        for slope in slopes:
            each = slope.abs().reshape(8, -1).sum(1)
            assert (each[:4] > 0).all() and (each[4:] == 0).all()


def test_without_regions_there_is_no_box_head(dataset: Dataset) -> None:
    plain = dataclasses.replace(RECIPE, region_share=0.0)
    learning = PoseTask(plain, dataset, np.zeros(len(dataset.pictures), bool))
    images, targets = learning.batch(torch.arange(8), STAGE, seeded(0, 0, 1))
    outputs = learning.build()(images)
    assert all(branch.region is None for branch in outputs.branches.values())
    assert not any(name.startswith(("giou", "fit")) for name in learning.losses(outputs, targets, STAGE, 1.0))


def test_a_stopped_run_goes_on_as_if_it_had_not_been(dataset: Dataset, drawn_folder: Path, tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPE, stages=(Stage(2, 96, 64, batch=8),))
    start = Start(regions=own_boxes(dataset, jitter=0.05))
    whole = run(recipe, drawn_folder, tmp_path / "whole", start=start)
    run(recipe, drawn_folder, tmp_path / "parts", start=start, max_hours=0.0)
    parts = run(recipe, drawn_folder, tmp_path / "parts", start=start)
    assert all(torch.equal(value, parts["model"][name]) for name, value in whole["model"].items())


@pytest.mark.parametrize(("share", "given", "complaint"), [(0.5, False, "needs a detector"), (0.0, True, "reads no")])
def test_regions_come_with_a_recipe_that_reads_them(
    dataset: Dataset, share: float, given: bool, complaint: str
) -> None:
    start = Start(regions=own_boxes(dataset) if given else None)
    with pytest.raises(RecipeError, match=complaint):
        prepare(dataclasses.replace(RECIPE, region_share=share), dataset, torch.device("cpu"), False, start)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"region_share": 1.0}, r"region_share must be in \[0, 1\), got 1.0"),
        ({"stages": (STAGE, Stage(1, 96, 96))}, "region_share needs stages of one size"),
        ({"task": "detector"}, "region_share is for pose students"),
        ({"network": "resnet18"}, "region_share is for pose students, which have box heads, not for resnet18"),
    ],
)
def test_a_recipe_that_cannot_have_box_heads_is_refused(changes: dict[str, object], complaint: str) -> None:
    with pytest.raises(RecipeError, match=complaint):
        dataclasses.replace(RECIPE, **changes)
