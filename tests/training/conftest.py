"""A COCO-format folder of drawn people, and the real one where it is at hand."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
from commandline import TINY_RECIPE, okdhp
from drawn import write_folder
from mending import PLACES, RECIPE, SIDE

SHARED = Path(__file__).parents[3] / "shared" / "data" / "people"


@pytest.fixture(scope="session")
def people_folder() -> Path:
    """The real photographs; skips where the clone stands alone."""
    if not (SHARED / "train.json").is_file():
        pytest.skip("needs the photographs in ../shared/data/people")
    return SHARED


@pytest.fixture(scope="session")
def drawn_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 drawn pictures with 36 people; not to be changed by a test."""
    return write_folder(tmp_path_factory.mktemp("drawn") / "people", 24)


@pytest.fixture(autouse=True)
def signals_as_they_were() -> Iterator[None]:
    """Training takes SIGTERM and SIGINT over; a test gives them back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def trained(drawn_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """pose.onnx, detector.onnx, their cards and checkpoints, made by the commands; a test may add to them."""
    folder = tmp_path_factory.mktemp("trained")
    for task, kept in (("pose", "b"), ("detector", "best")):
        recipe = folder / f"{task}.toml"
        recipe.write_text(TINY_RECIPE.replace("TASK", task).replace("KEPT", kept))
        okdhp("train", recipe, "--data", drawn_folder, "--out", folder / task, "--amp", "off", "--device", "cpu")
        okdhp("export", folder / task / "last.pt", folder / f"{task}.onnx", "--data", drawn_folder)
    return folder


@pytest.fixture(scope="session")
def mended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with people, detector.onnx, and pose/last.pt and pose.onnx that came of them."""
    folder = tmp_path_factory.mktemp("mended")
    data = write_folder(folder / "people", 60)
    tiny.make_fixed_detector(folder / "detector.onnx", SIDE, PLACES)
    (folder / "pose.toml").write_text(RECIPE.replace("epochs = 4", "epochs = 18"))
    arguments = ("--data", data, "--detector", folder / "detector.onnx", "--amp", "off")
    okdhp("train", folder / "pose.toml", "--out", folder / "pose", *arguments)
    okdhp("export", folder / "pose" / "last.pt", folder / "pose.onnx", "--data", data)
    return folder
