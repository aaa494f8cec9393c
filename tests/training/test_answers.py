"""A teacher that is asked once a person: what is kept of its heatmaps, and how it comes back on other views."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from commandline import okdhp, refused
from small_runs import CPU, POSE, run

from app.digest import sha256
from training.answers import LEAST_HEIGHT, PLACES, Answers, answers_of, drawn, highest_places
from training.augment import crop_matrices, inverted, transform_points
from training.box_task import Regions
from training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from training.config import Augment, RecipeError, Stage
from training.data import Dataset, load_coco
from training.pose_crops import FAR_AWAY, NOBODY, PoseCrops, answer_targets, keypoint_targets
from training.pose_task import PoseTask
from training.targets import bells
from training.teacher import Teacher, load_teacher
from training.train import Start, seeded

STAGE = Stage(1, 96, 64, batch=8)
ALONE = dataclasses.replace(POSE, branches=POSE.branches[:1], stages=(STAGE,), fau="mean", kd_ramp=0.01)
TAUGHT = dataclasses.replace(ALONE, distillation="teacher", teacher_once=True)
TEACHER = dataclasses.replace(ALONE, stages=(Stage(1, 64, 64, batch=8),))  # sees another size than its student


@pytest.fixture(scope="module")
def teachers(drawn_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two checkpoints that see something, whatever it be: nothing has to be learnt for that."""
    folder, head = tmp_path_factory.mktemp("teachers"), "branches.a.head.weight"
    content = run(TEACHER, drawn_folder, folder, max_hours=0.0)
    for seed, name in enumerate(("one.pt", "other.pt")):
        weight = torch.randn(content["ema"][head].shape, generator=torch.Generator().manual_seed(seed))
        save_checkpoint(folder / name, content | {"ema": content["ema"] | {head: weight / 10}})
    return folder / "one.pt", folder / "other.pt"


@pytest.fixture
def dataset(drawn_folder: Path) -> Dataset:
    return load_coco(drawn_folder, "train")


def asked(teacher: Path, dataset: Dataset, kept: Path) -> Answers:
    return answers_of(load_teacher(teacher, TAUGHT, CPU), dataset, CPU, kept)


def perfect(dataset: Dataset) -> Answers:
    """Of a teacher who sees every keypoint where it is annotated, surely."""
    places = dataset.people.keypoints[:, :, None].repeat(1, 1, PLACES, 1)
    heights = torch.zeros(places.shape[:3])
    heights[..., 0] = 1
    return Answers(places, heights, "perfect")


def test_of_a_heatmap_the_highest_places_are_kept_with_their_heights() -> None:
    there = torch.tensor([[[[13.0, 21.5], [40.3, 50.2], [7.0, 60.0]]]])  # (1, 1, 3, 2), in pixels
    high = torch.tensor([[[0.9, 0.4, 0.2]]])
    places, heights = highest_places(drawn(there, high, (80, 64), stride=4, sigma=2.0), 4.0)
    torch.testing.assert_close(places, there, atol=0.02, rtol=0)
    torch.testing.assert_close(heights, high, atol=0.04, rtol=0)  # of the nearest cell
    assert (heights <= high).all()


def test_what_hardly_rises_names_no_place_and_a_hill_names_one() -> None:
    low = LEAST_HEIGHT * 0.9
    heatmaps = drawn(torch.full((1, 2, PLACES, 2), 30.0), torch.tensor([[[low, 0, 0], [0.8, 0, 0]]]), (64, 64), 4, 2.0)
    _, heights = highest_places(heatmaps, 4.0)
    assert (heights > 0).tolist() == [[[False, False, False], [True, False, False]]]


def test_where_bells_meet_the_higher_one_is_drawn() -> None:
    places = torch.tensor([[[[20.0, 20.0], [26.0, 20.0], [50.0, 50.0]]]])
    drawn_maps = drawn(places, torch.tensor([[[0.9, 0.5, 0.0]]]), (64, 64), 4, 2.0)
    first, second = (bells(places[:, :, i], (64, 64), 4, 2.0) for i in (0, 1))
    torch.testing.assert_close(drawn_maps, torch.maximum(0.9 * first, 0.5 * second))


def test_a_teacher_is_asked_about_each_person_at_its_own_size(
    dataset: Dataset, teachers: tuple[Path, Path], tmp_path: Path
) -> None:
    answers = asked(teachers[0], dataset, tmp_path / "answers.pt")
    teacher, people = load_teacher(teachers[0], TAUGHT, CPU), dataset.people
    assert teacher.size_hw == (64, 64) and answers.identity == sha256(teachers[0])
    for row in (0, 7, len(people) - 1):
        matrices = crop_matrices(people.boxes[[row]], (64, 64))
        heatmaps = teacher.heatmaps(dataset.pictures.sample(people.picture[[row]], matrices, (64, 64)).float())
        places, heights = highest_places(heatmaps, 64 / heatmaps.shape[2])
        in_picture = transform_points(places.flatten(1, 2), inverted(matrices)).view(17, PLACES, 2)
        torch.testing.assert_close(answers.heights[row], heights[0], atol=1e-4, rtol=1e-3)
        seen = heights[0] > 0
        assert seen.sum() > 17
        torch.testing.assert_close(answers.places[row][seen], in_picture[seen], atol=0.05, rtol=0)


def test_what_it_saw_is_kept_for_the_next_start_of_the_same_teacher_and_people(
    dataset: Dataset, teachers: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, questions, ask = tmp_path / "answers.pt", [], Teacher.heatmaps
    monkeypatch.setattr(Teacher, "heatmaps", lambda self, images: questions.append(len(images)) or ask(self, images))
    first = asked(teachers[0], dataset, kept)
    again = asked(teachers[0], dataset, kept)
    assert torch.equal(first.places, again.places) and torch.equal(first.heights, again.heights)
    assert sum(questions) == len(dataset.people)
    other = asked(teachers[1], dataset, kept)
    assert not torch.equal(first.heights, other.heights)
    fewer = dataclasses.replace(dataset, people=dataset.people.subset(np.arange(5)))
    assert len(asked(teachers[1], fewer, kept).heights) == 5
    assert sum(questions) == 2 * len(dataset.people) + 5


def test_answers_are_carried_over_to_every_view_as_annotations_are(dataset: Dataset) -> None:
    learnt = np.arange(len(dataset.people)) % 3 > 0
    everyone, augment = torch.arange(int(learnt.sum())), Augment(rotation=1.0, half_body=0.5)
    crops = PoseCrops(dataset, learnt, augment, None).of_people(everyone, (96, 64), seeded(0, 0, 1))
    assert 0 < crops.mirrored.sum() < len(everyone)
    wanted, found = keypoint_targets(crops, dataset.joints), answer_targets(crops, perfect(dataset), dataset.joints)
    torch.testing.assert_close(found["places"][:, :, 0], wanted["keypoints"], atol=1e-3, rtol=0)
    assert torch.equal(found["heights"][:, :, 0], torch.ones(len(everyone), 17))


def test_how_surely_a_side_was_seen_goes_with_it_into_the_mirror(dataset: Dataset) -> None:
    surely = torch.rand(len(dataset.people), 17, PLACES, generator=torch.Generator().manual_seed(0))
    answers = dataclasses.replace(perfect(dataset), heights=surely)
    everyone, every = torch.arange(len(surely)), np.ones(len(surely), bool)
    for chance, names in ((0.0, tuple(range(17))), (1.0, dataset.joints.flip_index)):
        crops = PoseCrops(dataset, every, Augment(flip=chance), None).of_people(everyone, (96, 64), seeded(0, 0, 1))
        assert torch.equal(answer_targets(crops, answers, dataset.joints)["heights"], surely[:, list(names)])


def test_nobody_is_seen_where_nobody_is_and_nothing_below_the_end_of_the_picture(dataset: Dataset) -> None:
    every = np.ones(len(dataset.people), bool)
    people, always = dataset.people, Augment(background=1.0)
    crops = PoseCrops(dataset, every, always, None).of_people(torch.arange(len(people)), (96, 64), seeded(0, 0, 1))
    empty = crops.person == NOBODY
    assert empty.any()
    heights = answer_targets(crops, perfect(dataset), dataset.joints)["heights"]
    assert not heights[empty].any() and heights[~empty].flatten(1).any(1).all()
    regions = Regions(people.picture, people.boxes, torch.zeros(len(people)))
    cut, _ = PoseCrops(dataset, every, Augment(), regions).of_regions(200, (96, 64), seeded(0, 0, 1))
    wanted, found = keypoint_targets(cut, dataset.joints), answer_targets(cut, perfect(dataset), dataset.joints)
    gone = wanted["keypoints"] == FAR_AWAY
    assert gone.any() and torch.equal(found["places"][:, :, 0] == FAR_AWAY, gone)


def test_a_perfect_teacher_s_heatmaps_are_the_annotated_ones(dataset: Dataset) -> None:
    task = PoseTask(TAUGHT, dataset, np.zeros(len(dataset.pictures), bool), answers=perfect(dataset))
    _, targets = task.batch(torch.arange(8), STAGE, seeded(0, 0, 1))
    annotated, _, inside = task.target(targets, STAGE, 24)
    answered = task.answered(targets, STAGE, 24)
    torch.testing.assert_close(answered[inside > 0], annotated.maps[inside > 0], atol=1e-4, rtol=0)


def test_a_student_of_another_size_learns_from_it_and_goes_on_where_it_was_stopped(
    dataset: Dataset, drawn_folder: Path, teachers: tuple[Path, Path], tmp_path: Path
) -> None:
    answers = asked(teachers[0], dataset, tmp_path / "answers.pt")
    start = Start(teacher=teachers[0], answers=answers)
    longer = dataclasses.replace(TAUGHT, stages=(dataclasses.replace(STAGE, epochs=2),))
    whole = run(longer, drawn_folder, tmp_path / "whole", start=start)
    assert whole["history"][-1]["losses"]["kl/a"] > 0 and whole["teacher"] == sha256(teachers[0])
    run(longer, drawn_folder, tmp_path / "parts", start=start, max_hours=0.0)
    parts = run(longer, drawn_folder, tmp_path / "parts", start=start)
    assert all(torch.equal(value, parts["model"][name]) for name, value in whole["model"].items())
    other = Start(teacher=teachers[1], answers=asked(teachers[1], dataset, tmp_path / "answers.pt"))
    with pytest.raises(CheckpointError, match="was taught by another teacher"):
        run(longer, drawn_folder, tmp_path / "parts", start=other)


@pytest.mark.parametrize("given", [True, False])
def test_answers_come_with_a_recipe_that_reads_them(
    given: bool, dataset: Dataset, drawn_folder: Path, teachers: tuple[Path, Path], tmp_path: Path
) -> None:
    recipe = dataclasses.replace(TAUGHT, teacher_once=not given)
    start = Start(teacher=teachers[0], answers=perfect(dataset) if given else None)
    with pytest.raises(RecipeError, match="answers come with teacher_once"):
        run(recipe, drawn_folder, tmp_path, start=start)


def test_the_command_asks_once_and_resumes(drawn_folder: Path, teachers: tuple[Path, Path], tmp_path: Path) -> None:
    recipe = tmp_path / "taught.toml"
    recipe.write_text(
        'name = "taught"\ntask = "pose"\nfau = "mean"\ndistillation = "teacher"\nteacher_once = true\n'
        "[encoder]\nwidths = [8, 12, 16, 24, 32]\n[[branches]]\nname = 'a'\nwidths = [16, 16, 16]\n"
        "[[stages]]\nepochs = 2\nheight = 96\nwidth = 64\nbatch = 8\n"
    )
    command = ("train", recipe, "--data", drawn_folder, "--out", tmp_path / "run", "--teacher", teachers[0])
    okdhp(*command, "--amp", "off", "--device", "cpu", "--max-hours", 0)
    written = (tmp_path / "run" / "answers.pt").stat().st_mtime_ns
    okdhp(*command, "--amp", "off", "--device", "cpu")
    content = load_checkpoint(tmp_path / "run" / "last.pt")
    assert content["epoch"] == 2 and content["teacher"] == sha256(teachers[0])
    line = refused(*command[:-1], teachers[1], "--amp", "off", "--device", "cpu")
    assert "was taught by another teacher" in line
    assert (tmp_path / "run" / "answers.pt").stat().st_mtime_ns == written
