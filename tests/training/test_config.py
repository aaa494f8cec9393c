import dataclasses
from pathlib import Path

import pytest
import torch

from training.config import Augment, Recipe, RecipeError, Stage
from training.pose_network import build_model
from training.recipes import UNREAD, load_recipe, recipe_from_dict

WEIGHTS = Path(__file__).parents[2] / "weights"
GOOD = 'name = "x"\ntask = "pose"\n[[stages]]\nepochs = 1\nheight = 64\nwidth = 32\n'


def test_values_of_the_file_reach_the_recipe(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    more = "[augment]\nflip = 0\n[[branches]]\nname = 'light'\nwidths = [8, 8]\n"
    path.write_text("seed = 7\nkept = 'light'\n" + GOOD + more)
    recipe = load_recipe(path)
    assert (recipe.seed, recipe.kept, recipe.augment.flip) == (7, "light", 0.0)
    assert recipe.stages == (Stage(1, 64, 32),)
    assert recipe.branches[0].widths == (8, 8)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("sead = 1\n" + GOOD, "unknown key sead"),
        (GOOD + "heigth = 3\n", "unknown key stages.heigth"),
        (GOOD.replace("epochs = 1\n", ""), "missing key stages.epochs"),
        (GOOD.replace('"pose"', '"cats"'), "task must be pose or detector, got 'cats'"),
        (GOOD.replace("64", "65"), "divisible by 32, got 65x32"),
        ("seed = '1'\n" + GOOD, "seed must be int, got '1'"),
        ("kept = 'z'\n" + GOOD, "kept must be one of the branches"),
        ("fau = 'max'\n" + GOOD, "fau must be one of"),
        ("temperature = 0\n" + GOOD, "temperature must be above 0"),
        (GOOD + "[[branches]]\nname = 'a'\ntower = 1\n", "a tower is a detector's"),
        (GOOD.replace("pose", "detector") + "[[branches]]\nname = 'a'\ntower = -1\n", "of at least 0 convolutions"),
        (GOOD + "[[branches]]\nname = 'a'\n[[branches]]\nname = 'a'\n", "distinct names"),
        (GOOD + "[[branches]]\nname = 'a'\nwidths = [8]\n[[branches]]\nname = 'b'\n", "end at one resolution"),
        ("network = 'vgg'\n" + GOOD, "network must be one of"),
        ("network = 'hourglass'\n" + GOOD, "divisible by 64, got 64x32"),
        ("network = 'hourglass'\n" + GOOD + "[encoder]\nmultiplier = 2\n", "has no encoder; set [hourglass]"),
        ("network = 'hourglass'\n" + GOOD + "[hourglass]\nchannels = 6\n", "4, 8, 12.. channels"),
        ("network = 'hourglass'\n" + GOOD + "[[branches]]\nname = 'a'\nstacks = 0\n", "at least one stack"),
        ("network = 'hourglass'\n" + GOOD + "[[branches]]\nname = 'a'\ndepth = 2\n", "stacks, not widths and depth"),
        ("network = 'resnet18'\n" + GOOD + "[encoder]\ndepths = [1, 1, 1, 1, 1]\n", "set encoder.multiplier instead"),
        ("network = 'resnet18'\n" + GOOD + "[[branches]]\nname = 'a'\ndepth = 0\n", "depth at least 1"),
        ("network = 'resnet18'\n" + GOOD.replace("pose", "detector"), "a detector's network is the student"),
        (GOOD + "[hourglass]\nshared = 2\n", "[hourglass] is set, but the network is student"),
        (GOOD + "[[branches]]\nname = 'a'\nstacks = 2\n", "stacks are an hourglass's"),
        (GOOD + "[encoder]\nmultiplier = 2\n", "the student has widths"),
        ("kept = 'best'\nholdout = 0\n" + GOOD, "chosen on held-out people"),
        (GOOD + "[[branches]]\nname = 'best'\n", "cannot be called"),
        ("distillation = 'self'\n" + GOOD, "distillation must be one of"),
        ("soft_loss = 'l1'\n" + GOOD, "soft_loss must be one of"),
        ("distillation = 'mutual'\n" + GOOD, "set fau"),
        ("distillation = 'mutual'\nfau = 'mean'\n" + GOOD + "[[branches]]\nname = 'a'\n", "at least two branches"),
        ("kd_ramp = 0\n" + GOOD, "kd_ramp must be above 0"),
        ("ensemble_weight = -1\n" + GOOD, "ensemble_weight must be at least 0, got -1"),
        ("kd_weight = -2\n" + GOOD, "kd_weight must be at least 0, got -2"),
        ("hard_kl_weight = nan\n" + GOOD, "hard_kl_weight must be at least 0, got nan"),
        ("box_weight = -1\n" + GOOD.replace("pose", "detector"), "box_weight must be at least 0, got -1"),
        ("absent_weight = -1\n" + GOOD, "absent_weight must be at least 0, got -1"),
        ("unlabelled_weight = -1\n" + GOOD, "unlabelled_weight must be at least 0, got -1"),
        ("unlabelled_weight = 1\n" + GOOD.replace("pose", "detector"), "a detector recipe does not read unlabelled"),
        ("teacher_once = true\n" + GOOD, "teacher_once is for poses that are learnt from a teacher"),
        ("teacher_once = true\n" + GOOD.replace("pose", "detector"), "teacher_once is for poses"),
        ("unlabelled_weight = 1\nsoft_loss = 'mse'\n" + GOOD, "unlabelled_weight is of a KL from teachers"),
        ("unlabelled_weight = 1\n" + GOOD + "[[branches]]\nname = 'a'\n", "unlabelled_weight is of a KL from teachers"),
        (GOOD + "[encoder]\ncross_stage = true\n", "with cross_stage an encoder's widths and depths are even"),
        ("sigma = 3\n" + GOOD.replace("pose", "detector"), "a detector recipe does not read sigma"),
        (GOOD.replace("pose", "detector") + "[augment]\nscale = 0.1\n", "does not read augment.scale"),
        (GOOD + "[augment]\nclose_up = 0.1\nmosaic = 0.2\n", "does not read augment.close_up, augment.mosaic"),
        ("ema_decay = 1.5\n" + GOOD, "ema_decay must be in [0, 1), got 1.5"),
        ("learning_rate = -1\n" + GOOD, "learning_rate must be at least 0, got -1"),
        ("sigma = 0\n" + GOOD, "sigma must be above 0, got 0"),
        ("seed = -1\n" + GOOD, "seed must be at least 0, got -1"),
        (GOOD + "[augment]\nmosaic = 25\n", "augment.mosaic is a probability, 0 to 1, got 25"),
        (GOOD + "[augment]\nscale = -1.5\n", "augment.scale must be at least 0, got -1.5"),
        (GOOD + "[[stages]]\nepochs = 1\nheight = 0\nwidth = 64\n", "above 0 and divisible by 32, got 0x64"),
        ("cooldown = 0\n" + GOOD, "cooldown must be in (0, 1], got 0"),
        (GOOD + "[[branches]]\nname = 'a'\nshuffle = 3\n", "shuffle is 1"),
        (GOOD.replace("pose", "detector") + "[[branches]]\nname = 'a'\nshuffle = 2\n", "shuffle is 1"),
        (GOOD + "[[branches]]\nname = 'a'\n[[branches]]\nname = 'b'\nshuffle = 2\n", "end at one resolution"),
        (GOOD + "[[branches]]\nname = 'a'\nfeatures = -8\n", "features are 0, or"),
        (GOOD + "[[branches]]\nname = 'a'\nfeatures = 8\ndepth = 0\n", "features are 0, or"),
        (GOOD.replace("pose", "detector") + "[[branches]]\nname = 'a'\nfeatures = 8\n", "features are 0, or"),
        (GOOD + "[[branches]]\nname = 'a'\nown = { widths = [8, 8], depths = [0, 0] }\n", "has 4 widths above 0 and 4"),
        (GOOD + "[[branches]]\nname = 'a'\nown = { widths = [8, 8, 0, 8], depths = [0, 0, 0, 0] }\n", "widths above 0"),
        (
            GOOD.replace("pose", "detector")
            + "[[branches]]\nname = 'a'\nown = { widths = [8, 8, 8, 8], depths = [0, 0, 0, 0] }\n",
            "one at least",
        ),
        ("network = 'resnet18'\n" + GOOD + "[[branches]]\nname = 'a'\nown = { widths = [8] }\n", "no encoder of its"),
        ("evaluate_every = 0\n" + GOOD, "evaluate_every must be above 0, got 0"),
        ("not toml", "Expected '='"),
    ],
)
def test_a_wrong_recipe_is_refused_in_one_line_that_names_file_and_fault(
    tmp_path: Path, text: str, complaint: str
) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert "wrong.toml" in str(caught.value)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_branches_that_end_at_one_resolution_by_width_or_by_shuffle_are_one_network(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text(GOOD + "[[branches]]\nname = 'a'\nwidths = [8, 8]\nshuffle = 2\n[[branches]]\nname = 'b'\n")
    model = build_model(load_recipe(path)).eval()
    shapes = {tuple(branch.final.shape) for branch in model(torch.rand(1, 3, 64, 32)).branches.values()}
    assert shapes == {(1, 17, 16, 8)}


def test_a_head_reads_as_many_features_as_the_recipe_says_else_the_last_width(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text(GOOD + "[[branches]]\nname = 'a'\nwidths = [8, 8, 4]\nfeatures = 20\n[[branches]]\nname = 'b'\n")
    branches = build_model(load_recipe(path)).branches
    assert [branch.head.in_channels for branch in branches.values()] == [20, 32]


def test_epochs_belong_to_stages_in_order() -> None:
    small, large = Stage(2, 64, 32), Stage(1, 128, 96)
    recipe = Recipe(name="x", task="pose", stages=(small, large))
    assert [recipe.stage_of(epoch) for epoch in range(recipe.epochs)] == [small, small, large]


@pytest.mark.parametrize("path", sorted(WEIGHTS.glob("*.toml")), ids=lambda path: path.stem)
def test_bundled_recipes_are_valid_and_survive_a_checkpoint(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.name == recipe.task == path.stem
    assert recipe_from_dict(dataclasses.asdict(recipe)) == recipe


def test_what_a_task_does_not_read_are_keys_of_a_recipe() -> None:
    known = {field.name for field in dataclasses.fields(Recipe)}
    known |= {f"augment.{field.name}" for field in dataclasses.fields(Augment)}
    assert {name for names in UNREAD.values() for name in names} <= known
