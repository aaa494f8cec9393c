"""The rows of an ablation: one recipe in the forms that the claims about it are to be held against."""

import dataclasses
from dataclasses import dataclass

from training.config import BEST, Branch, Recipe, RecipeError, require

AT_ONCE = 1e-6  # a ramp for teachers that know everything from the first step on
DEPTHS = (1, 2, 3)  # of unbalanced branches, in parts of the student's: the paper's 2, 4 and 6 stacks


@dataclass(frozen=True)
class Row:
    """One line of the table, trained with every seed. `teacher` is the row whose network teaches this one's."""

    name: str
    what: str
    recipe: Recipe
    teacher: str = ""


def ablation_rows(recipe: Recipe, heavy: Recipe | None = None, same_trunk: bool = False) -> tuple[Row, ...]:
    """Every row for the OKDHP `recipe`, teachers before their pupils; what the recipe itself is already has no row.

    heavy: the two-stage baseline's teacher; without it, one about four times as heavy as the student, by its decoder
    alone where all rows are to have the `same_trunk`.
    Raises RecipeError for a recipe that is not OKDHP's, and where a row would lack a detector or a teacher.
    """
    if recipe.distillation != "ensemble" or recipe.soft_loss != "kl" or len(recipe.branches) < 2:
        raise RecipeError(f"{recipe.name}: an ablation starts from two or more branches that an ensemble teaches by KL")
    check_alone(recipe)
    if heavy is not None:
        check_alone(heavy)
        task = f"{heavy.name}: a {heavy.task} network cannot teach {recipe.name}, a {recipe.task} one"
        require(heavy.task == recipe.task, task)
        require(heavy.distillation != "teacher", f"{heavy.name}: is to teach, and wants a teacher itself")
    change = dataclasses.replace
    student = student_of(recipe)
    alone = change(recipe, branches=(student,), kept=student.name, fau="mean")
    teacher = heavy or heavier(alone, same_trunk)
    if len(teacher.branches) > 1:  # its best one teaches, so that one is scored and counted
        teacher = change(teacher, kept=BEST)
    taught = change(alone, distillation="teacher", kd_ramp=AT_ONCE)
    equal = renamed([student] * len(recipe.branches))
    balanced = change(recipe, branches=equal, kept=BEST if recipe.kept == BEST else "1")
    unbalanced = renamed([deeper(recipe, student, times) for times in DEPTHS])
    rows = [
        Row("alone", "one branch, no distillation", alone),
        Row("okdhp", "the recipe", recipe),
        Row("balanced", f"{len(recipe.branches)} branches like the student", balanced),
        Row("unbalanced", "branches 1, 2 and 3 times as deep", change(recipe, branches=unbalanced, kept="1")),
        Row("no-kd", "branches and ensemble, no soft loss", change(recipe, kd_weight=0.0)),
        Row("mean", "the mean for the FAU", change(recipe, fau="mean")),
        Row("concat-fau", "the paper's FAU", change(recipe, fau="concat")),
        Row("mse", "MSE for KL", change(recipe, soft_loss="mse")),
        Row("temperature-1", "KL at temperature 1", change(recipe, temperature=1.0)),
        Row("mutual", "Deep Mutual Learning", change(recipe, distillation="mutual", fau="mean")),
        Row("teacher", "the heavy teacher itself", teacher),
        Row("fpd", "two stages, MSE to the teacher", change(taught, soft_loss="mse"), "teacher"),
        Row("fpd-kl", "two stages, KL to the teacher", taught, "teacher"),
    ]
    same = {
        "balanced": equal == renamed(list(recipe.branches)),
        "mean": recipe.fau == "mean",
        "concat-fau": recipe.fau == "concat",
    }
    return tuple(row for row in rows if not same.get(row.name, False))


def check_alone(recipe: Recipe) -> None:
    """Raises RecipeError for one that learns from a detector's proposals: an ablation has none."""
    without = "an ablation has no detector to learn boxes from: give it the recipe with region_share = 0"
    require(recipe.region_share == 0, f"{recipe.name}: {without}, not {recipe.region_share:g}")


def student_of(recipe: Recipe) -> Branch:
    """The kept branch; the first where the best is kept."""
    return next(branch for branch in recipe.branches if recipe.kept in (branch.name, BEST))


def renamed(branches: list[Branch]) -> tuple[Branch, ...]:
    """The same branches, called 1, 2, 3.."""
    return tuple(dataclasses.replace(branch, name=str(number)) for number, branch in enumerate(branches, 1))


def deeper(recipe: Recipe, branch: Branch, times: int) -> Branch:
    """So many times the stacks of an hourglass, or the convolutions per level of a decoder."""
    if recipe.network == "hourglass":
        return dataclasses.replace(branch, stacks=branch.stacks * times)
    return dataclasses.replace(branch, depth=branch.depth if times == 1 else max(branch.depth, 1) * times)


def heavier(alone: Recipe, same_trunk: bool = False) -> Recipe:
    """A teacher for the one-branch recipe `alone`: an hourglass with twice the stacks in all, others twice as wide.

    same_trunk: the decoder alone becomes heavier, four times as wide and twice as deep.
    """
    (branch,) = alone.branches
    if alone.network == "hourglass":
        deep = dataclasses.replace(branch, stacks=2 * branch.stacks + alone.hourglass.shared)
        return dataclasses.replace(alone, branches=(deep,))
    if same_trunk:
        deep = deeper(alone, dataclasses.replace(branch, widths=tuple(4 * width for width in branch.widths)), 2)
        return dataclasses.replace(alone, branches=(deep,))
    wide = dataclasses.replace(branch, widths=tuple(2 * width for width in branch.widths))
    encoder = alone.encoder
    if alone.network == "student":
        encoder = dataclasses.replace(encoder, widths=tuple(2 * width for width in encoder.widths))
    else:
        encoder = dataclasses.replace(encoder, multiplier=2 * encoder.multiplier)
    return dataclasses.replace(alone, branches=(wide,), encoder=encoder)
