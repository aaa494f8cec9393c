"""A COCO-format folder of drawn people, and the real one where it is at hand."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from commandline import TINY_RECIPE, okdhp
from drawn import write_folder

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
