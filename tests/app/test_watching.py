"""`okdhp watch`: cameras and video files shown to a real service with the tiny networks."""

import asyncio
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from cameras import FPS, MotionJpeg, answers, listening, watched
from serving import Server, free_port, running
from skimage import data
from streams import eventually

import app.watching
from app.camera import Camera
from app.settings import Settings
from app.watching import Service, watch

pytestmark = pytest.mark.usefixtures("trying_again_soon")

# --- files -----------------------------------------------------------------------------------------------------------


def test_every_frame_of_a_file_is_answered_with_its_time(server: Server, film: Path) -> None:
    said = answers(film, "--url", server.url)
    assert [answer["frame"] for answer in said] == list(range(8))
    assert [answer["time_s"] for answer in said] == pytest.approx([number / FPS for number in range(8)], abs=0.01)
    assert {(answer["source"], answer["connection"]) for answer in said} == {(str(film), 0)}
    assert [[person["id"] for person in answer["people"]] for answer in said] == [[1]] * 8
    assert said[0]["image"] == {"width": 160, "height": 120}


def test_a_slow_service_loses_no_frame_of_a_file(serve: Callable[..., Server], film: Path) -> None:
    server = serve()
    batcher = server.app.state.pipeline._pose.batcher
    run = batcher._run

    def slowly(crops: Any) -> Any:
        threading.Event().wait(0.25)
        return run(crops)

    batcher._run = slowly
    said = answers(film, "--url", server.url)
    assert [(answer["frame"], answer["dropped"]) for answer in said] == [(number, 0) for number in range(8)]


@pytest.mark.parametrize(("max_fps", "times_s"), [
    (FPS * 0.99, [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]),  # for so little none is left out
    (FPS / 2, [0, 0.2, 0.4, 0.6]),
    (FPS / 2.5, [0, 0.3, 0.5]),  # as often as that in the mean
])  # fmt: skip
def test_frames_are_sent_as_often_and_as_large_as_was_said(
    server: Server, film: Path, max_fps: float, times_s: list[float]
) -> None:
    said = answers(film, "--url", server.url, "--max-fps", max_fps, "--max-side", 80)
    assert [answer["time_s"] for answer in said] == pytest.approx(times_s, abs=0.01)
    assert {tuple(answer["image"].values()) for answer in said} == {(80, 60)}


def test_a_frame_of_any_shape_can_be_made_small(server: Server, tmp_path: Path) -> None:
    strip = tmp_path / "strip.avi"
    writer = cv2.VideoWriter(str(strip), cv2.VideoWriter.fourcc(*"MJPG"), FPS, (1600, 16))
    writer.write(np.zeros((16, 1600, 3), np.uint8))
    writer.release()
    (said,) = answers(strip, "--url", server.url, "--max-side", 16)
    assert said["image"] == {"width": 16, "height": 1}


def test_a_frame_is_sent_as_it_was_seen(tmp_path: Path) -> None:
    seen = cv2.cvtColor(data.astronaut(), cv2.COLOR_RGB2BGR)
    path, received = tmp_path / "astronaut.avi", list[bytes]()
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), FPS, seen.shape[1::-1])
    writer.write(seen)
    writer.release()

    def keeping(socket: Any) -> None:
        for number, frame in enumerate(socket):
            received.append(frame)
            socket.send(json.dumps({"frame": number}))

    with listening(keeping) as url:
        answers(path, "--url", url)
    (sent,) = (cv2.imdecode(np.frombuffer(frame, np.uint8), cv2.IMREAD_COLOR) for frame in received)
    assert sent.shape == seen.shape and abs(sent.astype(int) - seen).mean() < 5


def test_several_files_are_watched_at_once(server: Server, film: Path) -> None:
    other = film.with_name("other.avi")
    other.write_bytes(film.read_bytes())
    sources = [answer["source"] for answer in answers(film, other, "--url", server.url)]
    assert (sources.count(str(film)), sources.count(str(other))) == (8, 8)


def test_a_file_goes_on_where_the_service_was_restarted(tiny_models: dict[str, Path], film: Path) -> None:
    port = free_port()
    settings = Settings(provider="cpu", drain_s=0, **tiny_models)  # type: ignore[arg-type]
    stop, stopped = threading.Event(), threading.Event()

    def serve_twice() -> None:
        with running(settings, port):
            stop.wait(20)
        with running(settings, port):
            stopped.wait(20)

    serving = threading.Thread(target=serve_twice)
    serving.start()
    try:
        said = watched(
            str(film), Service(f"http://127.0.0.1:{port}"), lambda said: len(said) > 1 and stop.set() or len(said) == 8
        )
    finally:
        stop.set()
        stopped.set()
        serving.join()
    assert [answer["time_s"] for answer in said] == pytest.approx([number / FPS for number in range(8)], abs=0.01)
    assert sorted({answer["connection"] for answer in said}) == [0, 1]


def test_a_frame_that_was_lost_with_the_connection_is_sent_again(film: Path) -> None:
    received: list[bytes] = []

    def breaking_once(socket: Any) -> None:
        for number, frame in enumerate(socket):
            received.append(frame)
            if len(received) == 3:
                socket.close(1012)
            socket.send(json.dumps({"frame": number}))

    with listening(breaking_once) as url:
        said = answers(film, "--url", url)
    assert len(received) == 9 and received[2] == received[3]
    assert [(answer["connection"], answer["frame"]) for answer in said] == [
        *((0, number) for number in range(2)), *((1, number) for number in range(6))
    ]  # fmt: skip


def test_a_frame_that_is_too_big_for_the_service_is_left_out_and_the_others_go_on(
    film: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def choosy(socket: Any) -> None:
        for number, frame in enumerate(socket):
            if len(frames) == 3:
                frames.append(frame)
                socket.close(1009, "too big")
            frames.append(frame)
            socket.send(json.dumps({"frame": number}))

    frames: list[bytes] = []
    with listening(choosy) as url:
        said = watched(str(film), Service(url), lambda said: len(said) == 7)
    assert [answer["time_s"] for answer in said] == pytest.approx([0, 0.1, 0.2, 0.4, 0.5, 0.6, 0.7], abs=0.01)
    assert "1009: too big; --max-side makes frames smaller" in caplog.text


def test_after_a_streams_time_is_up_the_next_begins_at_once(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def old_after_some_frames(socket: Any) -> None:
        for number, _ in enumerate(socket):
            socket.send(json.dumps({"frame": number}))
            if number == 3 and not closed:
                closed.append(True)
                socket.close(1001, "too old")

    closed: list[bool] = []
    monkeypatch.setattr(app.watching, "RETRY_S", 1000.0)  # longer than the test waits
    with listening(old_after_some_frames) as url:
        said = watched(str(film), Service(url), lambda said: len(said) == 8)
    assert sorted({answer["connection"] for answer in said}) == [0, 1]


def test_a_service_that_is_away_is_named_with_the_camera_that_waits_for_it(
    film: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"http://127.0.0.1:{free_port()}"

    async def run() -> None:
        watching = asyncio.create_task(watch([Camera(str(film), max_fps=9, max_side=99)], Service(url), print))
        async with asyncio.timeout(20):
            while "does not answer" not in caplog.text:
                await asyncio.sleep(0.01)
        watching.cancel()

    asyncio.run(run())
    assert f"{film}: {url} does not answer" in caplog.text


# --- cameras ---------------------------------------------------------------------------------------------------------


def test_a_camera_that_was_gone_is_watched_again(server: Server) -> None:
    with MotionJpeg(pictures_an_answer=10).on() as camera:
        watched(camera.url, Service(server.url), lambda said: camera.shown > 25)
        assert camera.shown > 25  # in its third answer


def test_a_slow_service_is_shown_few_frames_and_the_newest() -> None:
    received: list[int] = []
    release = threading.Event()

    def slow(socket: Any) -> None:
        for number, frame in enumerate(socket):
            received.append(int(cv2.imdecode(np.frombuffer(frame, np.uint8), cv2.IMREAD_GRAYSCALE)[30, 40]))
            if number == 1:
                release.wait(20)
            if number >= 1:
                socket.send(json.dumps({"frame": number}))

    with listening(slow) as url, MotionJpeg(pictures_an_answer=1000).on() as camera:
        shown: list[int] = []

        def wait_then_release() -> None:
            eventually(lambda: camera.shown >= 100)
            shown.append(len(received))
            release.set()

        threading.Thread(target=wait_then_release).start()
        watched(camera.url, Service(url), lambda said: len(said) == 3)
    assert shown == [2]  # two under way, however long the camera shows more
    assert received[2] >= 80


def test_answers_and_logs_name_a_camera_without_its_password(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    with MotionJpeg(pictures_an_answer=3).on() as camera:
        said = watched(camera.url, Service(server.url), lambda said: "no picture" in caplog.text and len(said) > 3)
    assert {answer["source"] for answer in said} == {camera.url.replace("somebody:secret@", "")}
    assert "secret" not in caplog.text
