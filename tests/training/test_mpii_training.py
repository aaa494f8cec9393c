"""From an MPII folder to a deployed file with MPII's joints, measured by PCKh."""

import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io
from commandline import TINY_RECIPE, okdhp, refused
from drawn import draw_person
from typer.testing import CliRunner

from app.cli import app
from training.checkpoint import load_checkpoint
from training.datasets import load_dataset
from training.joints import MPII
from training.pose_task import score, scored

# Where MPII's joints are among COCO's keypoints; its pelvis, thorax, neck and head top are between two of them.
FROM_COCO = ((16, 16), (14, 14), (12, 12), (11, 11), (13, 13), (15, 15), (11, 12), (5, 6), (0, 6), (1, 2)) + (
    (10, 10), (8, 8), (6, 6), (5, 5), (7, 7), (9, 9)
)  # fmt: skip


@pytest.fixture(scope="module")
def mpii_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 drawn people, one a picture, in the JSON conversion's layout with head boxes; train and valid are the same."""
    folder = tmp_path_factory.mktemp("mpii")
    (folder / "annot").mkdir()
    (folder / "images").mkdir()
    random, entries, heads = np.random.default_rng(0), [], []
    for number in range(30):
        image = random.integers(0, 60, (140, 120, 3), dtype=np.uint8)
        x, y, height = (int(random.integers(*span)) for span in ((5, 40), (5, 25), (85, 105)))
        keypoints = draw_person(image, (x, y, 55, height))
        cv2.imwrite(str(folder / "images" / f"{number}.png"), image[..., ::-1])
        joints = np.array([(keypoints[a] + keypoints[b]) / 2 for a, b in FROM_COCO]) + 0.5  # Matlab's pixels
        heads.append([[x + 18, y], [x + 38, y + 18]])
        entries.append({"image": f"{number}.png", "joints": joints.tolist(), "joints_vis": [1] * 16,
                        "center": [x + 27.5, y + height / 2], "scale": height / 200})  # fmt: skip
    for split in ("train", "valid"):
        (folder / "annot" / f"{split}.json").write_text(json.dumps(entries))
        boxes = np.array(heads, dtype=float).transpose(1, 2, 0)
        scipy.io.savemat(folder / "annot" / f"gt_{split}.mat", {"headboxes_src": boxes})
    return folder


@pytest.fixture(scope="module")
def trained(mpii_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    recipe = TINY_RECIPE.replace("TASK", "pose").replace("KEPT", "a").replace("= 96", "= 64").replace("0.1", "0.3")
    (folder / "recipe.toml").write_text(recipe)
    arguments = ["--data", str(mpii_folder), "--amp", "off", "--device", "cpu"]
    okdhp("train", folder / "recipe.toml", "--out", folder / "run", *arguments)
    okdhp("export", folder / "run" / "last.pt", folder / "pose.onnx", "--data", mpii_folder)
    return folder


def test_every_branch_learns_mpiis_joints_and_is_scored_by_pckh(trained: Path) -> None:
    content = load_checkpoint(trained / "run" / "last.pt")
    first, last = content["history"][0], content["history"][-1]
    assert content["joints"] == "mpii"
    assert last["losses"]["mse/a"] < first["losses"]["mse/a"]
    assert set(last["scores"]) == {"a", "b", "ensemble"}
    assert all(0 <= score <= 1 for score in last["scores"].values())


def test_a_head_box_of_no_size_is_not_measured_by(mpii_folder: Path) -> None:
    people = load_dataset(mpii_folder, "val").people
    people.head_boxes[3] = 0.0
    assert np.flatnonzero(~scored(people, MPII)).tolist() == [3]
    measurable = people.subset(scored(people, MPII))
    assert score(measurable.keypoints.numpy(), measurable, MPII) == 1.0


def test_card_names_the_joints_and_the_score(trained: Path) -> None:
    card = json.loads((trained / "pose.json").read_text())
    assert card["keypoints"] == list(MPII.names)
    assert {"pckh_50", "pckh_10", "auc"} <= set(card["scores"])


@pytest.mark.parametrize(
    ("command", "rest"), [("train", ()), ("ablate", ("--seeds", "1", "--row", "alone", "--row", "okdhp"))]
)
def test_a_best_branch_that_nobody_could_tell_is_refused_before_anything_is_learnt(
    mpii_folder: Path, tmp_path: Path, command: str, rest: tuple[str, ...]
) -> None:
    """HRNet's layout has head boxes for the split val alone."""
    folder = shutil.copytree(mpii_folder, tmp_path / "mpii")
    (folder / "annot" / "gt_train.mat").unlink()
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(TINY_RECIPE.replace("TASK", "pose").replace("KEPT", "best").replace("0.1", "0.3"))
    options = ("--data", folder, "--out", tmp_path / "run", "--amp", "off", "--device", "cpu", *rest)
    nobody = r"okdhp: of \d people held out none can be measured to choose the best branch by"
    cure = "name a branch in kept, or put MPII's release into the folder for its head boxes"
    assert re.fullmatch(f"{nobody}: {cure}", refused(command, recipe, *options))
    assert not list((tmp_path).glob("run/**/last.pt"))


def test_evaluate_prints_the_benchmarks_table(trained: Path, mpii_folder: Path) -> None:
    printed = okdhp("evaluate", "--data", mpii_folder, "--pose", trained / "pose.onnx")
    card = json.loads((trained / "pose.json").read_text())
    names, values = printed[printed.index("PCKh@0.5") :].splitlines()[1:3]
    assert names.split() == ["head", "shoulder", "elbow", "wrist", "hip", "knee", "ankle", "mean"]
    assert float(values.split()[-1]) == pytest.approx(100 * card["scores"]["pckh_50"], abs=0.06)
    at_10, area = re.search(r"PCKh@0.1 (\S+), area under the curve (\S+)", printed).groups()
    expected = [100 * card["scores"][name] for name in ("pckh_10", "auc")]
    assert "mean gap" in printed
    assert [float(at_10), float(area)] == pytest.approx(expected, abs=0.06)


def test_people_with_other_keypoints_than_the_networks_are_refused(trained: Path, drawn_folder: Path) -> None:
    result = CliRunner().invoke(app, ["evaluate", "--data", str(drawn_folder), "--pose", str(trained / "pose.onnx")])
    assert result.exit_code == 2
    assert "the people have 17 keypoints, this network predicts 16" in result.output.replace("\n", " ")


def test_a_coco_folder_is_still_one(drawn_folder: Path) -> None:
    assert load_dataset(drawn_folder, "train").joints.name == "coco"
