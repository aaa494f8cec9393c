import copy
import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from model.export import deploy
from model.fau import FauForm
from model.student import OwnConfig
from training.checkpoint import load_checkpoint, save_checkpoint
from training.config import Branch, Encoder, Hourglass, Recipe, Stage
from training.datasets import load_dataset
from training.joints import COCO
from training.pose_network import build_model
from training.recipes import load_recipe, recipe_from_dict
from training.restore import build_network, start_from
from training.teacher import load_teacher
from training.train import train

CONFIGS = sorted((Path(__file__).parents[2] / "training" / "configs").glob("*.toml"))
WEIGHTS = Path(__file__).parents[2] / "weights"
LARGE = CONFIGS[0].with_name("pose-large.toml")
CPU = torch.device("cpu")
STUDENT = Recipe(
    name="tiny",
    task="pose",
    stages=(Stage(2, 64, 64, batch=8),),
    branches=(Branch("a", (8, 8, 8)), Branch("b", (16, 8, 8), depth=2), Branch("c", (24, 16, 8), depth=3)),
    encoder=Encoder((8, 8, 8, 8, 8), (0, 0, 0, 0, 0)),
    holdout=0.2,
)
HOURGLASS = dataclasses.replace(
    STUDENT,
    network="hourglass",
    encoder=Encoder(),
    hourglass=Hourglass(channels=8, shared=1),
    branches=(Branch("a", stacks=1), Branch("b", stacks=2)),
)
PUBLISHED = [
    dataclasses.replace(STUDENT, network=name, encoder=Encoder(multiplier=0.1), branches=STUDENT.branches[:2])
    for name in ("resnet18", "mobilenetv2", "shufflenetv2")
]


def first_release(values: dict[str, Any]) -> dict[str, Any]:
    """A recipe's values as a checkpoint held them before networks could be chosen."""
    old = {
        "name": "pose",
        "task": "pose",
        "stages": values["stages"],
        "branches": tuple({key: branch[key] for key in ("name", "widths", "depth")} for branch in values["branches"]),
        "encoder": {key: values["encoder"][key] for key in ("widths", "depths")},
    }
    same = "kept fau augment seed learning_rate weight_decay warmup_epochs ema_decay sigma ensemble_weight"
    same += " hard_kl_weight kd_weight kd_ramp temperature box_weight holdout"
    return old | {key: values[key] for key in same.split()}


def test_a_recipe_of_the_first_release_builds_the_network_its_weights_fit() -> None:
    values = first_release(dataclasses.asdict(Recipe("pose", "pose", (Stage(26, 128, 96), Stage(7, 256, 192)))))
    with torch.device("meta"):
        weights = build_model(recipe_from_dict(values)).state_dict()
    listed = "\n".join(f"{name} {tuple(value.shape)}" for name, value in weights.items())
    # Of the checkpoint that the first released student was made of.
    expected = "7257f15c5cd7ec8927b3b9b21146621463a288aa833144697435a509a3fac71a"
    assert hashlib.sha256(listed.encode()).hexdigest() == expected


def test_a_run_of_the_first_release_is_resumed(drawn_folder: Path, tmp_path: Path) -> None:
    recipe, dataset = dataclasses.replace(STUDENT, name="pose"), load_dataset(drawn_folder, "train")
    path = train(recipe, dataset, tmp_path, device=CPU, amp=False, max_hours=0.0)
    content = load_checkpoint(path)
    save_checkpoint(path, content | {"recipe": first_release(content["recipe"])})
    assert load_checkpoint(train(recipe, dataset, tmp_path, device=CPU, amp=False))["epoch"] == 2


@pytest.mark.parametrize("recipe", [HOURGLASS, *PUBLISHED], ids=lambda recipe: recipe.network)
def test_every_network_is_distilled_by_the_same_trainer(recipe: Recipe, drawn_folder: Path, tmp_path: Path) -> None:
    once = dataclasses.replace(recipe, stages=(Stage(1, 64, 64, batch=8),))
    content = load_checkpoint(train(once, load_dataset(drawn_folder, "train"), tmp_path, device=CPU, amp=False))
    losses, scores = content["history"][-1]["losses"], content["history"][-1]["scores"]
    names = [branch.name for branch in recipe.branches]
    assert {f"{term}/{name}" for term in ("mse", "kl", "hard_kl") for name in names} | {"mse/ensemble"} <= set(losses)
    assert set(scores) == {*names, "ensemble"}
    assert recipe_from_dict(content["recipe"]) == once


def test_unbalanced_hourglass_branches_have_the_papers_own_stacks_on_its_shared_ones() -> None:
    unbalanced = dataclasses.replace(
        HOURGLASS,
        hourglass=Hourglass(8, 2),
        branches=tuple(Branch(n, stacks=s) for n, s in zip("abc", (2, 4, 6), strict=True)),
    )
    with torch.device("meta"):
        model = build_model(unbalanced)
    assert len(model.trunk.stacks) == 2
    assert {name: len(branch.stacks) for name, branch in model.branches.items()} == {"a": 2, "b": 4, "c": 6}


def test_light_middle_and_heavy_branches_make_one_ensemble_and_differ_in_size() -> None:
    model = build_model(STUDENT)
    sizes = [sum(p.numel() for p in branch.parameters()) for branch in model.branches.values()]
    assert sizes == sorted(set(sizes))
    out = model.eval()(torch.rand(1, 3, 64, 64) * 255)
    mean = sum(branch.final for branch in out.branches.values()) / 3
    torch.testing.assert_close(out.ensemble, mean)


@pytest.mark.parametrize("task", ["pose", "detector"])
def test_a_branch_with_an_encoder_of_its_own_teaches_and_leaves_the_light_one_as_it_is(task: str) -> None:
    """It shares the trunk up to stride 4, which it teaches too, and nothing of it is in the deployed network."""
    heavy = Branch("heavy", (16, 8, 8), own=OwnConfig((8, 16, 24, 32), (0, 1, 1, 1)))
    recipe = dataclasses.replace(STUDENT, task=task, branches=(STUDENT.branches[0], heavy))
    model = build_network(recipe)
    alone = build_network(dataclasses.replace(recipe, branches=recipe.branches[:1]))
    light, parts = model.deployed("a"), model.deployed("heavy")
    assert set(light.state_dict()) == set(alone.deployed("a").state_dict())
    assert count(parts) > 5 * count(light)
    out = model(torch.rand(2, 3, 64, 64) * 255)
    assert out.branches["heavy"].final.shape == out.branches["a"].final.shape
    out.branches["heavy"].final.square().sum().backward()
    taught = [stage[0].conv3x3.grad is not None for stage in model.trunk.stages]
    assert taught == [True, True, False, False, False]
    exported = deploy(copy.deepcopy(model).eval(), "heavy", task, COCO.sigmas)
    assert count(exported) < count(parts) - count(model.trunk.stages[2:]) / 2


@pytest.mark.parametrize(("fau", "names", "read"), [
    ("mean", ("heavy",), 2), ("mean", ("heavy", "other"), 2), ("slim", ("heavy", "other"), 3),
])  # fmt: skip
def test_what_nobody_reads_of_the_shared_encoder_does_not_learn(
    fau: FauForm, names: tuple[str, ...], read: int
) -> None:
    """Where every branch has its own; a FAU that weighs them reads the shared features at stride 8."""
    branches = tuple(Branch(name, (16, 8, 8), own=OwnConfig((8, 16, 24, 32), (0, 1, 1, 1))) for name in names)
    model = build_network(dataclasses.replace(STUDENT, branches=branches, kept="heavy", fau=fau))
    model(torch.rand(2, 3, 64, 64) * 255).ensemble.square().sum().backward()
    learn = [all(p.requires_grad for p in stage.parameters()) for stage in model.trunk.stages]
    assert learn == [True] * read + [False] * (5 - read)
    assert all((p.grad is not None) == p.requires_grad for p in model.parameters())


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_bundled_configs_are_valid_named_as_their_file_and_survive_a_checkpoint(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    assert recipe_from_dict(dataclasses.asdict(recipe)) == recipe


@pytest.mark.parametrize(("task", "name"), [("pose", "pose"), ("pose", "pose-large"), ("detector", "detector")])
def test_bundled_weights_are_all_that_finetuning_starts_from(task: str, name: str) -> None:
    """docs/training.md: no layer of the network begins anew."""
    (path,) = [path for path in CONFIGS if path.stem == f"{name}-finetune"]
    recipe = load_recipe(path)
    model = build_network(recipe)
    wanted = model.deployed(recipe.kept).state_dict()
    start_from(model, task, WEIGHTS / f"{name}.pt")
    bundled = load_checkpoint(WEIGHTS / f"{name}.pt")["ema"]
    started = model.state_dict()
    used = [name for name in started if name.startswith(("trunk.", "branches."))]
    assert len(used) == len(wanted)
    for name in used:
        torch.testing.assert_close(started[name].float(), bundled[name].float())


def test_the_bundled_student_s_card_has_the_bundled_recipe() -> None:
    card = json.loads((WEIGHTS / "pose.json").read_text())
    assert recipe_from_dict(card["recipe"]) == load_recipe(WEIGHTS / "pose.toml")


def test_the_bundled_large_network_is_the_heavy_branch_of_its_recipe() -> None:
    card, recipe = json.loads((WEIGHTS / "pose-large.json").read_text()), load_recipe(LARGE)
    heavy = tuple(branch for branch in recipe.branches if branch.name == recipe.kept)
    assert recipe_from_dict(card["recipe"]) == dataclasses.replace(recipe, name="pose", branches=heavy)


def test_the_bundled_teacher_teaches_the_bundled_student() -> None:
    """docs/weights.md: `--teacher weights/pose-teacher.pt`; the card names that file."""
    teacher = load_teacher(WEIGHTS / "pose-teacher.pt", load_recipe(WEIGHTS / "pose.toml"), CPU)
    assert teacher.heatmaps(torch.zeros(1, 3, 256, 192)).shape == (1, 17, 64, 48)
    assert json.loads((WEIGHTS / "pose.json").read_text())["trained"]["teacher"] == teacher.identity


@pytest.mark.parametrize(
    ("stem", "branch", "parameters_m"),
    [("hourglass-2", "c", 6.731), ("hourglass-4", "a", 13.019), ("hourglass-8", "b", 25.595)]
    + [("hourglass-4-unbalanced", "light", 13.019), ("hourglass-4-unbalanced", "heavy", 25.595)],
)
def test_bundled_hourglasses_deploy_the_authors_networks(stem: str, branch: str, parameters_m: float) -> None:
    (path,) = [path for path in CONFIGS if path.stem == stem]
    with torch.device("meta"):
        deployed = build_model(load_recipe(path), num_keypoints=16).deployed(branch)
    assert sum(p.numel() for p in deployed.parameters()) / 1e6 == pytest.approx(parameters_m, abs=0.001)
