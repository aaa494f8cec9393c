"""What the tests of `okdhp watch` share."""

from pathlib import Path

import cv2
import pytest
from cameras import FPS
from serving import picture

import app.camera
import app.watching


@pytest.fixture
def trying_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.camera, "RETRY_S", 0.05)
    monkeypatch.setattr(app.watching, "RETRY_S", 0.05)


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """Eight frames, a tenth of a second each: somebody who moves."""
    path = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), FPS, (160, 120))
    for number in range(8):
        writer.write(picture(160, 120, boxes=((20 + 2 * number, 20, 50 + 2 * number, 90),)))
    writer.release()
    return path
