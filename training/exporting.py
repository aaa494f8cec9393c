"""`okdhp export`: a checkpoint's kept branch as an ONNX file, its scores calibrated; model card; slim checkpoint."""

import copy
import dataclasses
import datetime
import json
import logging
import subprocess
from pathlib import Path
from typing import Any

from app.digest import sha256
from model.export import Calibration, cost, deploy, export_onnx
from model.okdhp import OKDHP
from training.calibration import TYPICAL, fit_calibration, right_keypoints
from training.checkpoint import check_unneeded, load_checkpoint, save_checkpoint
from training.config import Recipe
from training.data import Dataset
from training.datasets import load_dataset
from training.decoding import deployed_decoding
from training.evaluate import candidates_threshold, detector_table, load_network, measure_poses
from training.joints import MPII
from training.kept import kept_branch, last_scores
from training.measurable import check_measurable
from training.pictures import DataError
from training.pose_task import predict, scored
from training.restore import joints_of, restore
from training.sharing import warn_of_shared
from training.together import put_together

log = logging.getLogger("okdhp.export")


def run_export(
    checkpoint: Path,
    out: Path,
    branch: str | None,
    data: Path | None,
    version: str = "1",
    size_hw: tuple[int, int] | None = None,
    half: bool = False,
) -> dict[str, Any]:
    """Write the deployed ONNX file `out` of a checkpoint, its model card and a slim checkpoint; returns the card.

    branch: the recipe's kept one unless named. data: a folder on whose val the exported file is scored; what is chosen
    by data, a pose network's calibration and a detector's `min_score`, comes of the pictures of its train that the
    recipe held out. size_hw: of the input, the last stage's unless given. half: as export_onnx has it.
    Raises RecipeError for a size that cannot be, DataError for a branch that is not there, and DataError or
    CheckpointError for an `out` whose card or slim checkpoint would be written over something else.
    """
    content = load_checkpoint(checkpoint)
    _check_names(checkpoint, out, content)
    recipe, model = restore(content)
    if branch is not None and branch not in model.branches:
        raise DataError(f"{checkpoint}: has no branch {branch!r}; its branches are {', '.join(model.branches)}")
    size_hw = size_hw or (recipe.stages[-1].height, recipe.stages[-1].width)
    _check_size(checkpoint, recipe, size_hw)
    done = content["epoch"]
    if done < recipe.epochs:
        log.warning("%s: is of a run that was stopped after %d of %d epochs", checkpoint, done, recipe.epochs)
    val = load_dataset(data, "val") if data is not None else None
    if data is not None:
        warn_of_shared(data)
    kept = branch or kept_branch(recipe, content["history"])
    held = _held_out(data, recipe.holdout) if data is not None else None
    calibration = _calibration(model, kept, held, size_hw) if recipe.task == "pose" else None
    deployed = deploy(copy.deepcopy(model).eval(), kept, recipe.task, joints_of(content).sigmas, calibration)
    with put_together(out.parent) as folder:  # a card that is of another file would be believed
        draft = folder / out.name
        export_onnx(deployed, size_hw, draft, half)
        card = {
            "name": recipe.name,
            "version": version,
            **_deployed_file(draft, size_hw, recipe.task),
            "keypoints": list(joints_of(content).names) if recipe.task == "pose" else [],
            **cost(deployed, size_hw),
            "branch": kept,
            **_training(content, recipe),
            "calibration": dataclasses.asdict(calibration) if calibration else None,
            "scores": {} if val is None else scores_of(draft, recipe.task, val),
            "recipe": dataclasses.asdict(recipe),
        }
        if half:
            card["precision"] = "float16 weights"
        if recipe.task == "detector" and held is not None:
            card["min_score"] = candidates_threshold(load_network(draft), held)
        draft.with_suffix(".json").write_text(json.dumps(card, indent=1) + "\n")
        save_checkpoint(draft.with_suffix(".pt"), slim(content, kept))
    return card


def check_ending(out: Path) -> None:
    """Raises DataError for an ONNX file `out` that is called as what lies beside it."""
    if out.suffix in (".pt", ".json"):
        raise DataError(f"{out}: card and checkpoint lie beside the file with these endings; call it {out.stem}.onnx")


def _check_names(checkpoint: Path, out: Path, content: dict[str, Any]) -> None:
    check_ending(out)
    slim = out.with_suffix(".pt")
    if slim.resolve() != checkpoint.resolve():
        check_unneeded(slim)
    elif content["model"]:
        raise DataError(f"{out}: its slim checkpoint would replace {checkpoint}; choose another name or folder")


def _check_size(checkpoint: Path, recipe: Recipe, size_hw: tuple[int, int]) -> None:
    """A recipe refuses sizes that its network cannot see, and a box head has one size alone."""
    (height, width), last = size_hw, recipe.stages[-1]
    dataclasses.replace(recipe, stages=(dataclasses.replace(last, height=height, width=width),))
    if recipe.region_share > 0 and (last.height, last.width) != size_hw:
        raise DataError(f"{checkpoint}: its box head sees crops of {last.height}x{last.width}, not of {height}x{width}")


def _deployed_file(path: Path, size_hw: tuple[int, int], task: str) -> dict[str, Any]:
    """What a card says of the ONNX file itself."""
    return {
        "task": task,
        "file": path.name,
        "sha256": sha256(path),
        "date": datetime.date.today().isoformat(),
        "input": {"height": size_hw[0], "width": size_hw[1], "layout": "NHWC", "dtype": "uint8", "colour": "RGB"},
    }


def _training(content: dict[str, Any], recipe: Recipe) -> dict[str, Any]:
    """What a card says of the run: on what, how long, where, and its last held-out scores, at the last stage's size."""
    return {
        "data": content.get("data", ""),
        "trained": {
            "epochs": content["epoch"],
            "hours": round(content["hours"], 2),
            "hardware": content.get("hardware", ""),
            "torch": content["torch"],
            "commit": _commit(),
            "seed": recipe.seed,
            **{name: content[name] for name in ("teacher", "detector", "averaged", "boxes") if content.get(name)},
            "before": content.get("before", []),
        },
        "held_out": last_scores(content["history"]),
    }


def slim(content: dict[str, Any], kept: str) -> dict[str, Any]:
    """A checkpoint to start other runs from: averaged weights of trunk and branch `kept`, in half precision.

    Its recipe is of that branch alone: a partner that only taught may be many times as heavy.
    """
    recipe = content["recipe"]
    branches = [branch for branch in recipe["branches"] if branch["name"] == kept]
    alone: dict[str, Any] = {"branches": branches, "kept": kept}
    if recipe.get("distillation") != "teacher":  # others teach where there are two
        alone |= {"distillation": "ensemble", "unlabelled_weight": 0.0}
    parts = ("trunk.", f"branches.{kept}.")
    weights = {name: value for name, value in content["ema"].items() if name.startswith(parts)}
    halved = {name: value.half() if value.is_floating_point() else value for name, value in weights.items()}
    return {**content, "recipe": recipe | alone, "ema": halved, "model": {}, "optimiser": {}}


def _held_out(data: Path, holdout: float) -> Dataset | None:
    """The pictures of the split train that training kept aside; None without any."""
    if holdout == 0:
        return None
    try:
        return load_dataset(data, "train", held_out=holdout)
    except DataError as error:  # a folder to be scored on alone
        log.warning("nothing held out to calibrate on: %s", error)
        return None


def _calibration(model: OKDHP, branch: str, held: Dataset | None, size_hw: tuple[int, int]) -> Calibration:
    """Fitted to the branch's keypoints of the held-out people; TYPICAL where they are too few to tell."""
    fitted = _fitted(model, branch, held, size_hw) if held is not None else None
    if fitted is None:
        log.warning("scores are calibrated as the bundled student's are: hold out more people to have their own")
    return fitted or TYPICAL


def _fitted(model: OKDHP, branch: str, held: Dataset, size_hw: tuple[int, int]) -> Calibration | None:
    people = held.people.subset(scored(held.people, held.joints))
    if not len(people):
        return None
    keypoints, expected = predict(model, held.pictures, people, size_hw, deployed_decoding(held.joints))[branch]
    labelled = people.labelled.numpy()
    return fit_calibration(expected[labelled], right_keypoints(keypoints, people, held.joints)[labelled])


def scores_of(path: Path, task: str, dataset: Dataset) -> dict[str, Any]:
    """The card's scores, measured on `dataset`; none where nobody in it can be measured."""
    network, command = load_network(path, task), {"command": "okdhp evaluate"}
    try:
        if task != "pose":
            check_measurable(dataset, task)
            return detector_table(network, dataset) | command
        found = measure_poses(network, dataset)
    except DataError as error:
        log.warning("not scored: %s", error)
        return {}
    if dataset.joints == MPII:
        share = found.pckh()
        values = {"pckh_50": share.at_50, "pckh_10": share.at_10, "auc": share.auc}
    else:
        values = {f"oks_share/{source}": value for source, (_, value) in found.oks_table().items()}
    _, values["calibration_gap"] = found.reliability()
    return {name: round(value, 4) for name, value in values.items()} | command


def _commit() -> str:
    """The repository's commit, or "" outside one."""
    root = Path(__file__).parent
    found = subprocess.run(["git", "-C", root, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return found.stdout.strip()
