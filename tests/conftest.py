"""What the tests share: tiny networks, pictures of bright "people", a real server on a real port."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from hypothesis import settings as hypothesis_settings
from serving import Server, running

from app.settings import Settings

# A slow machine is no fault of the code: no example fails for its time.
hypothesis_settings.register_profile("untimed", deadline=None)
hypothesis_settings.load_profile("untimed")

WEIGHTS = Path(__file__).parent.parent / "weights"


@pytest.fixture(scope="session", autouse=True)
def _no_settings_from_outside() -> Iterator[None]:
    """The developer's environment doesn't change what a test sees."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.upper().startswith("POSE_"):
                patch.delenv(name)
        yield


@pytest.fixture(autouse=True)
def _same_numbers_every_time() -> None:
    """A test that draws weights or pictures draws the same ones in every run, whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Paths of the tiny networks, as settings: pose_model and detector_model."""
    folder = tmp_path_factory.mktemp("models")
    return {
        "pose_model": tiny.make_pose(folder / "pose.onnx"),
        "detector_model": tiny.make_detector(folder / "detector.onnx"),
    }


@pytest.fixture(scope="session")
def real_models() -> dict[str, Path]:
    """Paths of the bundled weights; skips where they are not built yet."""
    models = {"pose_model": WEIGHTS / "pose.onnx", "detector_model": WEIGHTS / "detector.onnx"}
    missing = [path.name for path in models.values() if not path.is_file()]
    if missing:
        pytest.skip(f"weights/{' and weights/'.join(missing)} not there yet")
    return models


@pytest.fixture(scope="session")
def server(tiny_models: dict[str, Path]) -> Iterator[Server]:
    """One service with the tiny networks, shared by the tests that don't change it."""
    with running(Settings(provider="cpu", **tiny_models)) as running_server:  # type: ignore[arg-type]
        yield running_server


@pytest.fixture
def serve(tiny_models: dict[str, Path]) -> Iterator[Callable[..., Server]]:
    """Starts a service with the tiny networks and other settings than the shared one's; it stops with the test."""
    with ExitStack() as stack:

        def start(**settings: Any) -> Server:
            return stack.enter_context(running(Settings(provider="cpu", **tiny_models, **settings)))

        yield start
