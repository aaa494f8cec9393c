import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from app.cli import app
from app.digest import sha256
from model.okdhp import OKDHP, Outputs
from model.outputs import BranchOutput
from training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from training.config import Augment, Branch, Encoder, Hourglass, Recipe, RecipeError, Stage
from training.datasets import load_dataset
from training.detector_task import DetectorTask
from training.distillation import seen_by, soft_loss, soft_targets
from training.exporting import run_export
from training.joints import MPII
from training.losses import Heatmaps, pixelwise_kl, soft_mse
from training.pose_task import PoseTask
from training.recipes import load_recipe
from training.restore import build_network, restore
from training.teacher import load_teacher
from training.train import Start, seeded, train

CPU = torch.device("cpu")
STUDENT = Recipe(
    name="tiny",
    task="pose",
    stages=(Stage(1, 64, 64, batch=8),),
    branches=(Branch("a", (8, 8, 8)), Branch("b", (8, 8, 8)), Branch("c", (8, 8, 8))),
    encoder=Encoder((8, 8, 8, 8, 8), (0, 0, 0, 0, 0)),
    holdout=0.2,
    fau="mean",
    kd_ramp=0.01,
    augment=Augment(mosaic=0.0),
)
HOURGLASS = dataclasses.replace(
    STUDENT,
    network="hourglass",
    encoder=Encoder(),
    hourglass=Hourglass(channels=8, shared=2),
    branches=(Branch("a", stacks=1), Branch("b", stacks=2)),
    fau="slim",
)
DETECTOR = dataclasses.replace(STUDENT, task="detector", branches=(Branch("a", (8, 8)), Branch("b", (8, 8))))


T = 0.2


def random_maps(seed: int) -> Tensor:
    return torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(seed))


def heatmaps(*seeds: int) -> list[Heatmaps]:
    return [Heatmaps(random_maps(seed), T) for seed in seeds]


def outputs(*names: str) -> Outputs:
    branches = {name: BranchOutput(random_maps(i).requires_grad_()) for i, name in enumerate(names)}
    return Outputs((), branches, torch.full((2, len(names), 3), 1 / len(names)), random_maps(9).requires_grad_())


def test_soft_mse_is_the_squared_distance_in_parts_of_the_targets_energy() -> None:
    student, teacher, target = heatmaps(0, 1, 2)
    weight = torch.tensor([[1.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
    error = energy = 0.0
    for b in range(2):
        for k in range(3):
            for y in range(4):
                for x in range(5):
                    error += float(weight[b, k]) * float(student.maps[b, k, y, x] - teacher.maps[b, k, y, x]) ** 2
                    energy += float(weight[b, k]) * float(target.maps[b, k, y, x]) ** 2
    assert soft_mse(student, teacher, target, weight).item() == pytest.approx(error / energy, rel=1e-5)


def test_a_teacher_that_has_learnt_nothing_weighs_no_more_than_the_annotation() -> None:
    (target,), nothing = heatmaps(0), Heatmaps(torch.zeros(2, 3, 4, 5), T)
    assert soft_mse(target, nothing, target, torch.ones(2, 3)).item() == pytest.approx(1.0)


def test_the_ensemble_teaches_every_branch_and_nobody_teaches_one_alone() -> None:
    out = outputs("a", "b")
    taught = soft_targets("ensemble", out, T)
    assert {name: [torch.equal(t.maps, out.ensemble) for t in teachers] for name, teachers in taught.items()} == {
        "a": [True],
        "b": [True],
    }
    assert soft_targets("ensemble", outputs("a"), T) == {"a": ()}


def test_in_mutual_learning_all_others_teach_a_branch_and_it_never_itself() -> None:
    out = outputs("a", "b", "c")
    taught = soft_targets("mutual", out, T)
    for name, teachers in taught.items():
        others = [branch.final for other, branch in out.branches.items() if other != name]
        assert all(torch.equal(t.maps, other) for t, other in zip(teachers, others, strict=True))


@pytest.mark.parametrize("how", ["ensemble", "mutual", "teacher"])
def test_no_gradient_flows_into_whoever_teaches(how: str) -> None:
    for teachers in soft_targets(how, outputs("a", "b"), T, random_maps(5).requires_grad_()).values():
        assert teachers
        assert not any(teacher.p.requires_grad for teacher in teachers)


def test_a_teacher_of_another_heatmap_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"heatmaps are of size \(3, 8, 10\), the student's \(3, 4, 5\)"):
        soft_targets("teacher", outputs("a"), T, torch.zeros(2, 3, 8, 10))


@pytest.mark.parametrize("kind", ["kl", "mse"])
def test_soft_loss_adds_up_a_branchs_heatmaps_and_averages_its_teachers(kind: str) -> None:
    students, teachers, (target,) = heatmaps(0, 1), heatmaps(2, 3, 4), heatmaps(5)
    weight = torch.tensor([[1.0, 0.0, 1.0], [1.0, 1.0, 1.0]])
    by_hand = 0.0
    for student in students:
        for teacher in teachers:
            kl, mse = pixelwise_kl(student, teacher, weight), soft_mse(student, teacher, target, weight)
            by_hand += float(kl if kind == "kl" else mse) / 3
    assert soft_loss(students, teachers, target, weight, kind).item() == pytest.approx(by_hand, rel=1e-5)


def test_a_keypoint_is_seen_as_surely_as_its_mean_heatmap_rises_and_not_at_all_below_a_floor() -> None:
    maps = torch.zeros(2, 1, 4, 4, 4)  # two teachers'
    maps[:, 0, 0, 1, 2], maps[:, 0, 2, 3, 3] = 0.8, 2.0
    maps[0, 0, 1, 0, 0] = maps[1, 0, 1, 3, 3] = 0.5  # each sees it elsewhere: on the mean it rises to .25
    seen = seen_by([Heatmaps(one, T) for one in maps.requires_grad_()])
    assert not seen.requires_grad  # a weight
    torch.testing.assert_close(seen, torch.tensor([[0.8, 0.0, 1.0, 0.0]]))


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_what_nobody_labelled_is_taught_where_the_teacher_sees_it(weight: float, drawn_folder: Path) -> None:
    recipe = dataclasses.replace(
        STUDENT, distillation="teacher", branches=STUDENT.branches[:1], unlabelled_weight=weight, hard_kl_weight=0.0
    )
    dataset = load_dataset(drawn_folder, "train")
    task = PoseTask(recipe, dataset, np.zeros(len(dataset.pictures), bool))
    _, targets = task.batch(torch.arange(4), recipe.stages[0], seeded(0, 0, 1))
    labelled, seen, unseen, outside = range(4)
    targets["labelled"] = torch.zeros(4, 17, dtype=torch.bool)
    targets["labelled"][:, [labelled, outside]] = True
    targets["keypoints"][:, labelled], targets["keypoints"][:, outside] = 30.0, -30.0
    targets["teacher"] = torch.full((4, 17, 16, 16), 0.1)
    targets["teacher"][:, [labelled, seen, outside], 5, 5], targets["teacher"][:, unseen, 5, 5] = 0.9, 0.25
    final = torch.zeros(4, 17, 16, 16, requires_grad=True)
    out = Outputs((), {"a": BranchOutput(final)}, torch.ones(4, 1, 17), final)
    task.losses(out, targets, recipe.stages[0], 1.0)["kl/a"].backward()
    taught = final.grad.abs().amax((0, 2, 3)) > 0
    assert taught[[labelled, seen, unseen, outside]].tolist() == [True, weight > 0, False, False]


def terms_of(recipe: Recipe, folder: Path) -> tuple[OKDHP, dict[str, Tensor]]:
    """A new network and the loss terms of its first batch."""
    dataset, kind = load_dataset(folder, "train"), PoseTask if recipe.task == "pose" else DetectorTask
    task = kind(recipe, dataset, np.zeros(len(dataset.pictures), bool))
    images, targets = task.batch(torch.arange(4), recipe.stages[0], seeded(0, 0, 1))
    torch.manual_seed(0)
    model = build_network(recipe)
    return model, task.losses(model(images), targets, recipe.stages[0], 1.0)


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_the_temperature_is_the_teachers_and_the_annotation_is_learnt_at_a_tenth(
    temperature: float, drawn_folder: Path
) -> None:
    recipe = dataclasses.replace(HOURGLASS, temperature=temperature)
    dataset = load_dataset(drawn_folder, "train")
    task = PoseTask(recipe, dataset, np.zeros(len(dataset.pictures), bool))
    images, targets = task.batch(torch.arange(4), recipe.stages[0], seeded(0, 0, 1))
    torch.manual_seed(0)
    out = build_network(recipe)(images)
    terms = task.losses(out, targets, recipe.stages[0], 1.0)
    target, _, visible = task.target(targets, recipe.stages[0], out.ensemble.shape[2])
    bells, teacher = Heatmaps(target.maps, 0.1), Heatmaps(out.ensemble.detach(), temperature)
    for name, branch in out.branches.items():
        maps = [*branch.intermediate, branch.final]
        hard = sum(pixelwise_kl(Heatmaps(m, 0.1), bells, visible) for m in maps)
        soft = sum(pixelwise_kl(Heatmaps(m, temperature), teacher, visible) for m in maps)
        torch.testing.assert_close(terms[f"hard_kl/{name}"], recipe.hard_kl_weight * hard)
        torch.testing.assert_close(terms[f"kl/{name}"], soft)


def test_annotation_and_teachers_of_one_temperature_share_a_softmax() -> None:
    (student,) = heatmaps(0)
    assert student.at(T) is student
    torch.testing.assert_close(student.at(1.0).p, torch.softmax(student.maps.flatten(2), 2))


def touched(model: OKDHP, loss: Tensor) -> set[str]:
    """The parts of the network that `loss` changes."""
    model.zero_grad()
    loss.backward(retain_graph=True)
    changed = {name for name, value in model.named_parameters() if value.grad is not None and value.grad.any()}
    return {".".join(name.split(".")[: 2 if name.startswith("branches") else 1]) for name in changed}


def test_the_ensemble_teaches_every_heatmap_of_shared_stacks_too(drawn_folder: Path) -> None:
    model, terms = terms_of(HOURGLASS, drawn_folder)
    assert {name for name in terms if name.startswith("kl/")} == {"kl/shared0", "kl/shared1", "kl/a", "kl/b"}
    for number in range(2):
        score = model.trunk.stacks[number].score.weight
        (gradient,) = torch.autograd.grad(terms[f"kl/shared{number}"], score, retain_graph=True)
        assert gradient.any()
    assert touched(model, terms["kl/shared1"]) == {"trunk"}


def test_shared_stacks_learn_the_soft_target_by_the_distance_that_branches_do(drawn_folder: Path) -> None:
    _, terms = terms_of(dataclasses.replace(HOURGLASS, soft_loss="mse"), drawn_folder)
    assert {"soft_mse/shared0", "soft_mse/shared1", "soft_mse/a"} <= set(terms)
    assert not any(name.startswith("kl/") for name in terms)


def test_shared_stacks_have_no_peers_to_learn_from(drawn_folder: Path) -> None:
    mutual = dataclasses.replace(HOURGLASS, distillation="mutual", fau="mean")
    _, terms = terms_of(mutual, drawn_folder)
    assert "mse/shared0" in terms and "kl/a" in terms and "kl/shared0" not in terms


@pytest.mark.parametrize("recipe", [HOURGLASS, dataclasses.replace(DETECTOR, fau="slim")], ids=lambda r: r.task)
def test_the_ensemble_learns_nothing_by_teaching_unless_the_recipe_says_so(recipe: Recipe, drawn_folder: Path) -> None:
    model, terms = terms_of(recipe, drawn_folder)
    assert touched(model, terms["kl/a"]) == {"trunk", "branches.a"}
    model, terms = terms_of(dataclasses.replace(recipe, detach_target=False), drawn_folder)
    soft = [term for name, term in terms.items() if name.startswith("kl/")]
    assert [touched(model, term) for term in soft] == [{"trunk", "branches.a", "branches.b", "fau"}] * len(soft)


def test_a_target_that_is_not_detached_is_an_ensembles(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(
        'name = "x"\ntask = "pose"\nfau = "mean"\ndistillation = "mutual"\ndetach_target = false\n'
        "[[stages]]\nepochs = 1\nheight = 64\nwidth = 64\n"
    )
    with pytest.raises(RecipeError, match="detach_target is of an ensemble that teaches, and distillation is 'mutual'"):
        load_recipe(tmp_path / "r.toml")


def losses(recipe: Recipe, folder: Path, out: Path, **options: Path) -> dict[str, float]:
    path = train(recipe, load_dataset(folder, "train"), out, device=CPU, amp=False, **options)
    found: dict[str, float] = load_checkpoint(path)["history"][-1]["losses"]
    return found


@pytest.mark.parametrize("recipe", [STUDENT, DETECTOR], ids=lambda recipe: recipe.task)
def test_each_way_to_distil_trains_with_its_own_terms(recipe: Recipe, drawn_folder: Path, tmp_path: Path) -> None:
    supervised = "mse" if recipe.task == "pose" else "quality"
    names = [branch.name for branch in recipe.branches]
    mse = losses(dataclasses.replace(recipe, soft_loss="mse"), drawn_folder, tmp_path / "mse")
    assert {f"soft_mse/{name}" for name in names} | {f"{supervised}/ensemble"} <= set(mse)
    assert not any(term.startswith("kl/") for term in mse)
    mutual = losses(dataclasses.replace(recipe, distillation="mutual"), drawn_folder, tmp_path / "mutual")
    assert {f"kl/{name}" for name in names} <= set(mutual)
    assert f"{supervised}/ensemble" not in mutual
    alone = dataclasses.replace(recipe, branches=recipe.branches[:1], distillation="teacher", soft_loss="mse")
    taught = losses(alone, drawn_folder, tmp_path / "taught", start=Start(teacher=tmp_path / "mse" / "last.pt"))
    assert taught["soft_mse/a"] > 0
    assert f"{supervised}/ensemble" not in taught


def test_a_teacher_is_the_averaged_network_of_its_best_branch(drawn_folder: Path, tmp_path: Path) -> None:
    losses(STUDENT, drawn_folder, tmp_path)
    content = load_checkpoint(tmp_path / "last.pt")
    scores = {name: float(name == "b") for name in "abc"}
    save_checkpoint(tmp_path / "last.pt", content | {"history": [{"scores": scores}]})
    _, model = restore(content)
    images = torch.rand(2, 3, 64, 64) * 255
    taught = load_teacher(tmp_path / "last.pt", STUDENT, CPU).heatmaps(images)
    torch.testing.assert_close(taught, model.eval()(images).branches["b"].final, atol=1e-5, rtol=1e-4)


def test_a_card_names_its_teacher(drawn_folder: Path, tmp_path: Path) -> None:
    losses(STUDENT, drawn_folder, tmp_path)
    taught = dataclasses.replace(STUDENT, distillation="teacher")
    losses(taught, drawn_folder, tmp_path / "taught", start=Start(teacher=tmp_path / "last.pt"))
    assert "teacher" not in run_export(tmp_path / "last.pt", tmp_path / "alone.onnx", "a", None)["trained"]
    card = run_export(tmp_path / "taught" / "last.pt", tmp_path / "pose.onnx", "a", None)
    assert card["trained"]["teacher"] == sha256(tmp_path / "last.pt")


@pytest.mark.parametrize(
    ("given", "why"),
    [([], "needs a teacher's checkpoint (--teacher)"), (["--teacher", "nowhere.pt"], "'nowhere.pt' does not exist")]
    + [(["--init", "nowhere.pt"], "'nowhere.pt' does not exist")]
    + [(["--detector", "nowhere.onnx"], "'nowhere.onnx' does not exist")],
)
def test_what_a_run_starts_from_is_asked_for_before_the_pictures_are_looked_at(
    given: list[str], why: str, tmp_path: Path
) -> None:
    (tmp_path / "taught.toml").write_text(
        'name = "taught"\ntask = "pose"\nfau = "mean"\ndistillation = "teacher"\n'
        "[[stages]]\nepochs = 1\nheight = 64\nwidth = 64\n"
    )
    folders = ["--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(app, ["train", str(tmp_path / "taught.toml"), *folders, *given])
    assert result.exit_code == 2 and why in result.output.replace("\n", "")


def test_a_teacher_of_other_keypoints_is_refused(drawn_folder: Path, tmp_path: Path) -> None:
    losses(STUDENT, drawn_folder, tmp_path)
    taught = dataclasses.replace(STUDENT, distillation="teacher")
    save_checkpoint(tmp_path / "mpii.pt", load_checkpoint(tmp_path / "last.pt") | {"joints": MPII.name})
    with pytest.raises(CheckpointError, match="knows the keypoints of mpii, the data have coco's"):
        losses(taught, drawn_folder, tmp_path / "taught", start=Start(teacher=tmp_path / "mpii.pt"))


def test_teachers_that_cannot_teach_are_refused_in_one_line(drawn_folder: Path, tmp_path: Path) -> None:
    losses(STUDENT, drawn_folder, tmp_path)
    losses(dataclasses.replace(STUDENT, seed=1), drawn_folder, tmp_path / "other")
    path = tmp_path / "last.pt"
    taught = dataclasses.replace(STUDENT, distillation="teacher")
    with pytest.raises(RecipeError, match="needs a teacher's checkpoint"):
        losses(taught, drawn_folder, tmp_path / "new")
    with pytest.raises(RecipeError, match='a teacher is given, but distillation is "ensemble"'):
        losses(STUDENT, drawn_folder, tmp_path / "new", start=Start(teacher=path))
    with pytest.raises(CheckpointError, match="a pose network cannot teach a detector one"):
        losses(
            dataclasses.replace(DETECTOR, distillation="teacher"),
            drawn_folder,
            tmp_path / "new",
            start=Start(teacher=path),
        )
    losses(taught, drawn_folder, tmp_path / "taught", start=Start(teacher=path))
    with pytest.raises(CheckpointError, match="was taught by another teacher"):
        losses(taught, drawn_folder, tmp_path / "taught", start=Start(teacher=tmp_path / "other" / "last.pt"))
