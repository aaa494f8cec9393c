import dataclasses

import pytest

from training.config import Branch, Encoder, Hourglass, Recipe, RecipeError, Stage
from training.rows import Row, ablation_rows, heavier

STUDENT = Recipe(
    name="tiny",
    task="pose",
    stages=(Stage(1, 64, 64),),
    branches=(Branch("a", (8, 8)), Branch("b", (8, 8)), Branch("c", (8, 8))),
    kept="b",
    encoder=Encoder((8, 8, 8, 8, 8)),
)
HOURGLASS = Recipe(
    name="hg",
    task="pose",
    stages=(Stage(1, 64, 64),),
    branches=(Branch("a", stacks=2), Branch("b", stacks=2)),
    kept="best",
    network="hourglass",
    hourglass=Hourglass(shared=2),
)


def rows(recipe: Recipe) -> dict[str, Row]:
    return {row.name: row for row in ablation_rows(recipe)}


def test_every_claim_has_its_row_and_the_recipe_is_not_its_own_baseline() -> None:
    names = "alone okdhp unbalanced no-kd mean concat-fau mse temperature-1 mutual teacher fpd fpd-kl"
    assert list(rows(STUDENT)) == names.split()
    assert "concat-fau" not in rows(dataclasses.replace(STUDENT, fau="concat"))
    unequal = dataclasses.replace(STUDENT, branches=(Branch("a", (8, 8)), Branch("b", (16, 8))))
    assert [branch.widths for branch in rows(unequal)["balanced"].recipe.branches] == [(16, 8), (16, 8)]


def test_teachers_come_before_their_pupils() -> None:
    names = list(rows(STUDENT))
    for name, row in rows(STUDENT).items():
        assert not row.teacher or names.index(row.teacher) < names.index(name)


def test_all_rows_but_the_teacher_deploy_the_same_student() -> None:
    for recipe in (STUDENT, HOURGLASS):
        for name, row in rows(recipe).items():
            if name == "teacher":
                continue
            kept = [b for b in row.recipe.branches if row.recipe.kept in (b.name, "best")]
            alike = {dataclasses.replace(branch, name="") for branch in kept}
            assert alike == {dataclasses.replace(recipe.branches[1], name="")}, name
            assert (row.recipe.encoder, row.recipe.hourglass) == (recipe.encoder, recipe.hourglass)
            assert (row.recipe.stages, row.recipe.learning_rate) == (recipe.stages, recipe.learning_rate)


def test_unbalanced_hourglass_branches_are_the_papers_and_its_teacher_has_twice_the_stacks() -> None:
    own = rows(HOURGLASS)
    assert [branch.stacks for branch in own["unbalanced"].recipe.branches] == [2, 4, 6]
    (teacher,) = own["teacher"].recipe.branches
    assert HOURGLASS.hourglass.shared + teacher.stacks == 8


def test_teacher_of_other_students_is_twice_as_wide() -> None:
    alone = rows(STUDENT)["alone"].recipe
    assert heavier(alone).encoder.widths == (16, 16, 16, 16, 16)
    assert heavier(alone).branches[0].widths == (16, 16)
    published = dataclasses.replace(alone, network="resnet18", encoder=Encoder(multiplier=0.5))
    assert heavier(published).encoder.multiplier == 1.0


def test_a_given_teacher_replaces_the_derived_one() -> None:
    """Of several branches the best one teaches, and so is the one that is scored and counted."""
    given = dataclasses.replace(STUDENT, name="given")
    alone = dataclasses.replace(given, branches=given.branches[-1:], kept=given.branches[-1].name)
    for heavy, expected in ((given, dataclasses.replace(given, kept="best")), (alone, alone)):
        (teacher,) = [row for row in ablation_rows(STUDENT, heavy) if row.name == "teacher"]
        assert teacher.recipe == expected


@pytest.mark.parametrize(
    "changes", [{"branches": (Branch("b"),)}, {"soft_loss": "mse"}, {"distillation": "mutual", "fau": "mean"}]
)
def test_a_recipe_that_is_not_okdhps_has_no_ablation(changes: dict[str, object]) -> None:
    with pytest.raises(RecipeError, match="tiny: an ablation starts from two or more branches"):
        ablation_rows(dataclasses.replace(STUDENT, **changes))


@pytest.mark.parametrize(
    ("changes", "heavy", "complaint"),
    [
        ({"region_share": 0.2}, {}, "tiny: an ablation has no detector .* with region_share = 0, not 0.2"),
        ({}, {"region_share": 0.3}, "heavy: an ablation has no detector .* with region_share = 0, not 0.3"),
        ({}, {"task": "detector"}, "heavy: a detector network cannot teach tiny, a pose one"),
        ({}, {"distillation": "teacher", "fau": "mean"}, "heavy: is to teach, and wants a teacher itself"),
    ],
)
def test_what_an_ablation_cannot_give_its_recipe_or_teacher_is_refused(
    changes: dict[str, object], heavy: dict[str, object], complaint: str
) -> None:
    with pytest.raises(RecipeError, match=f"^{complaint}$"):
        ablation_rows(dataclasses.replace(STUDENT, **changes), dataclasses.replace(STUDENT, name="heavy", **heavy))
