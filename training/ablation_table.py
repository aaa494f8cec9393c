"""An ablation's results as a Markdown table and a picture."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from training.config import Recipe

SCORES = {
    "oks_share": "OKS share, given boxes",
    "pckh_50": "PCKh@0.5, given boxes",
    "recall_at_0.3_false": "recall at 0.3 false people a picture",
}
HEAD = "| row | what | seeds | score, % | spread | points over alone | training GMAC | hours | GMAC | parameters, M |"


@dataclass(frozen=True)
class Result:
    """One row with one seed.

    score: 0..1, of the kept branch on the reported split. training_gmacs: forward multiply-adds in 1e9 of all that is
    trained or run for one picture of the last stage, a teacher's own training included, as the paper counts. hours:
    wall clock, the teacher's included. gmacs and parameters: of the deployed branch.
    """

    row: str
    what: str
    seed: int
    kept: str
    score: float
    training_gmacs: float
    hours: float
    gmacs: float
    parameters: int


def by_row(results: Sequence[Result]) -> dict[str, list[Result]]:
    """The results of each row, in the order of first appearance."""
    rows: dict[str, list[Result]] = {}
    for result in results:
        rows.setdefault(result.row, []).append(result)
    return rows


def gain(row: list[Result], alone: list[Result]) -> float | None:
    """Mean points over `alone` of the seeds that both have, or None."""
    base = {result.seed: result.score for result in alone}
    pairs = [result.score - base[result.seed] for result in row if result.seed in base]
    return 100 * statistics.mean(pairs) if pairs else None


def markdown(results: Sequence[Result], recipe: Recipe, about: dict[str, str]) -> str:
    """The table; spread is the sample standard deviation over seeds, costs are a seed's mean.

    about: what was trained on ("data", "hardware", perhaps "init"), and which of SCORES is the "score".
    """
    rows = by_row(results)
    start = f" Every row's trunk started from {about['init']}." if "init" in about else ""
    lines = [
        f"# Ablation of {recipe.name}",
        "",
        f"{SCORES[about['score']]}, on the split val. {about['data']}; {recipe.epochs} epochs on {about['hardware']}."
        + start,
        "Training GMAC: the forward pass of one picture through all that is trained or run, a teacher's own training",
        "included, and so are its hours. The last two columns are of the deployed branch.",
        "",
        HEAD,
        "|---|---|" + "---:|" * 8,
    ]
    for name, row in rows.items():
        scores = [100 * result.score for result in row]
        spread = f"{statistics.stdev(scores):.2f}" if len(row) > 1 else ""
        points = gain(row, rows.get("alone", []))
        cells = [
            name,
            row[0].what,
            str(len(row)),
            f"{statistics.mean(scores):.2f}",
            spread,
            f"{points:+.2f}" if points is not None and name != "alone" else "",
            f"{row[0].training_gmacs:.2f}",
            f"{statistics.mean(result.hours for result in row):.2f}",
            f"{row[0].gmacs:.2f}",
            f"{row[0].parameters / 1e6:.3f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def draw(results: Sequence[Result], recipe: Recipe, about: dict[str, str], path: Path) -> None:
    """Every seed's score as a dot with the row's mean and spread, and beside it the training cost."""
    rows = by_row(results)
    figure = Figure(figsize=(10, 1.2 + 0.4 * len(rows)), layout="constrained")
    scores, costs = figure.subplots(1, 2, sharey=True, width_ratios=(2, 1))
    for height, row in enumerate(rows.values()):
        values = [100 * result.score for result in row]
        scores.scatter(values, [height] * len(row), s=14, color="tab:blue", alpha=0.5)
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        scores.errorbar(statistics.mean(values), height, xerr=spread, fmt="|", color="black", capsize=3)
        costs.barh(height, row[0].training_gmacs, height=0.6, color="tab:grey")
    scores.set_yticks(range(len(rows)), list(rows))
    scores.invert_yaxis()
    scores.set_xlabel(f"{SCORES[about['score']]}, %")
    costs.set_xlabel("training GMAC a picture")
    scores.grid(axis="x", alpha=0.3)
    figure.suptitle(f"{recipe.name}: mean and spread over seeds")
    figure.savefig(path, dpi=120)
