"""Networks that are asked and not trained: whoever teaches, and whoever is calibrated before it is exported."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import CPU, POSE
from torch import nn

from model.okdhp import OKDHP
from training.checkpoint import save_checkpoint
from training.config import Branch, Encoder, Hourglass, Recipe, Stage
from training.data import held_pictures, load_coco
from training.exporting import run_export
from training.restore import build_network
from training.teacher import load_teacher

HOURGLASS = dataclasses.replace(
    POSE,
    stages=(Stage(1, 64, 64, batch=8),),
    network="hourglass",
    encoder=Encoder(),
    hourglass=Hourglass(channels=8, shared=1),
    branches=(Branch("a"), Branch("b")),
)


def checkpoint(recipe: Recipe, path: Path) -> OKDHP:
    """Writes one of a network whose statistics and heads are those of no picture, and returns that network."""
    torch.manual_seed(0)
    model = build_network(recipe).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    learning = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}  # nobody deploys these
    rest: dict[str, Any] = {"model": learning, "optimiser": {}, "epoch": recipe.epochs, "hours": 0.0, "torch": "2"}
    content = {"recipe": dataclasses.asdict(recipe), "ema": model.state_dict(), "history": [{"scores": {}}], **rest}
    save_checkpoint(path, content)
    return model


@pytest.mark.parametrize("recipe", [POSE, HOURGLASS], ids=lambda recipe: recipe.network)
def test_a_teacher_sees_a_picture_as_it_would_alone_and_learns_nothing_of_it(recipe: Recipe, tmp_path: Path) -> None:
    model = checkpoint(recipe, tmp_path / "last.pt")
    student = dataclasses.replace(recipe, distillation="teacher", fau="mean")
    teacher = load_teacher(tmp_path / "last.pt", student, CPU)
    before = {name: value.clone() for name, value in teacher.network.state_dict().items()}
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 255
    together = teacher.heatmaps(images)
    with torch.no_grad():
        torch.testing.assert_close(together, model(images).branches["a"].final, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(torch.cat([teacher.heatmaps(one[None]) for one in images]), together)
    assert not together.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in teacher.network.state_dict().items())


class Asked(Exception):
    """What would have been predicted for calibration."""


def test_scores_are_calibrated_on_the_people_of_train_that_were_held_out(
    drawn_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint(POSE, tmp_path / "last.pt")
    train = load_coco(drawn_folder, "train")
    (tmp_path / "data").mkdir()
    for name in ("train.json", "images"):
        (tmp_path / "data" / name).symlink_to(drawn_folder / name)
    others = re.sub(r'"(id|image_id)": ', r'"\1": 10', (drawn_folder / "val.json").read_text())
    (tmp_path / "data" / "val.json").write_text(others)

    def asked(model: nn.Module, pictures: Any, people: Any, size_hw: tuple[int, int], decode: Any) -> Any:
        raise Asked(people.image_ids.tolist(), size_hw)

    monkeypatch.setattr("training.exporting.predict", asked)
    with pytest.raises(Asked) as caught:
        run_export(tmp_path / "last.pt", tmp_path / "pose.onnx", "b", tmp_path / "data")
    image_ids, size_hw = caught.value.args
    held = held_pictures(train.image_ids, POSE.holdout)
    assert 0 < held.sum() < len(held)
    assert set(image_ids) == set(train.image_ids[held].tolist())
    assert size_hw == (POSE.stages[-1].height, POSE.stages[-1].width)
