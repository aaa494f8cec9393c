"""The benchmark of many cameras, against the real service with the tiny networks."""

import asyncio
from pathlib import Path

import pytest
from serving import Server, encoded, picture

from benchmarks import cameras

FRAMES = [encoded(picture(boxes=((20 + shift, 20, 44 + shift, 70),)), ".jpg") for shift in range(5)]


def test_a_row_tells_what_was_sent_and_what_came_back(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cameras, "SETTLING_S", 0.2)
    row = asyncio.run(cameras.measure(server.url, FRAMES, streams=2, fps=20, seconds=1))
    streams, sent, answered, looks, median_ms, late_ms = map(float, row.split())
    assert streams == 2 and 10 < sent <= 42
    assert 0 <= looks < answered <= 60
    assert 0 < median_ms <= late_ms


def test_streams_that_the_service_refuses_are_told(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cameras, "SETTLING_S", 0.2)
    most = server.app.state.settings.stream_max_sessions_per_address
    with pytest.raises(ValueError, match="1 of 9 streams were closed: received 1013 .* too many streams"):
        asyncio.run(cameras.measure(server.url, FRAMES, streams=most + 1, fps=20, seconds=1))


def test_what_is_no_film_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a video was expected"):
        cameras.frames_of(tmp_path / "absent.mp4")
