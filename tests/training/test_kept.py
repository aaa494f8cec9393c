import dataclasses

import pytest

from training.checkpoint import CheckpointError
from training.config import Branch, Encoder, Recipe, Stage
from training.kept import kept_branch, last_scores, teaching_branch

RECIPE = Recipe(
    name="tiny",
    task="pose",
    stages=(Stage(1, 64, 32),),
    branches=(Branch("light", (8,)), Branch("heavy", (16,))),
    kept="best",
    encoder=Encoder((8, 8, 8, 8, 8), (0, 0, 0, 0, 0)),
)
HISTORY = [
    {"scores": {"light": 0.9, "heavy": 0.1, "ensemble": 0.9}},
    {"scores": {"light": 0.3, "heavy": 0.4, "ensemble": 0.5}},
]


def test_best_is_the_branch_that_ends_best_on_held_out_people_and_never_the_ensemble() -> None:
    assert kept_branch(RECIPE, HISTORY) == "heavy"


def test_a_named_branch_is_kept_whatever_the_scores() -> None:
    assert kept_branch(dataclasses.replace(RECIPE, kept="light"), HISTORY) == "light"


def test_scores_are_those_of_the_last_epoch_that_was_evaluated() -> None:
    stopped = [*HISTORY, {"scores": {}}]
    assert last_scores(stopped) == HISTORY[-1]["scores"]
    assert kept_branch(RECIPE, stopped) == "heavy"
    assert last_scores([]) == {}


def test_the_best_branch_teaches_even_where_another_is_kept() -> None:
    light = dataclasses.replace(RECIPE, kept="light")
    assert teaching_branch(light, HISTORY) == "heavy"
    assert teaching_branch(light, []) == "light"


@pytest.mark.parametrize("history", [[], [{"scores": {"light": float("nan"), "heavy": float("nan")}}]])
def test_best_of_no_scores_is_refused(history: list[dict[str, dict[str, float]]]) -> None:
    with pytest.raises(CheckpointError, match="tiny: no held-out scores"):
        kept_branch(RECIPE, history)
