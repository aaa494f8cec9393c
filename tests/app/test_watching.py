"""`okdhp watch`: cameras and video files shown to a real service with the tiny networks."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from commandline import okdhp, refused
from serving import Server, encoded, free_port, picture, running
from streams import eventually
from websockets.sync.server import serve as serve_sockets

import app.camera
import app.watching
from app.camera import Camera
from app.settings import Settings
from app.watching import Service, watch

FPS = 10


@pytest.fixture(autouse=True)
def _trying_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
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


def answers(*arguments: object) -> list[dict[str, Any]]:
    """What `okdhp watch` prints."""
    return [json.loads(line) for line in okdhp("watch", *arguments).splitlines() if line.startswith("{")]


def watched(source: str, service: Service, enough: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
    """The answers to a camera's frames until there are enough of them."""
    said: list[dict[str, Any]] = []

    async def run() -> None:
        done = asyncio.Event()

        def say(answer: dict[str, Any]) -> None:
            said.append(answer)
            if enough(said):
                done.set()

        watching = asyncio.create_task(watch([Camera(source, max_fps=100, max_side=1000)], service, say))
        async with asyncio.timeout(20):
            await asyncio.wait([watching, asyncio.create_task(done.wait())], return_when=asyncio.FIRST_COMPLETED)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)

    asyncio.run(run())
    return said


@contextmanager
def listening(speak: Callable[[Any], None]) -> Iterator[str]:
    """The address of a service that speaks so with whoever connects."""
    with serve_sockets(speak, "127.0.0.1", 0) as service:
        thread = threading.Thread(target=service.serve_forever)
        thread.start()
        yield f"ws://127.0.0.1:{service.socket.getsockname()[1]}/stream"
    thread.join()


class MotionJpeg:
    """A network camera: a picture every 10 ms, as bright as its number, in one endless answer after another."""

    def __init__(self, pictures_an_answer: int) -> None:
        self.shown = 0
        camera = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=next")
                self.end_headers()
                for _ in range(pictures_an_answer):
                    data = encoded(np.full((60, 80, 3), min(camera.shown, 255), np.uint8), ".jpg")
                    head = f"--next\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                    try:
                        self.wfile.write(head.encode() + data + b"\r\n")
                    except OSError:  # nobody looks any more
                        return
                    camera.shown += 1
                    threading.Event().wait(0.01)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://somebody:secret@127.0.0.1:{self._server.server_port}/video.mjpg"

    @contextmanager
    def on(self) -> Iterator["MotionJpeg"]:
        thread = threading.Thread(target=self._server.serve_forever)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()


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


def test_frames_are_sent_as_often_and_as_large_as_was_said(server: Server, film: Path) -> None:
    said = answers(film, "--url", server.url, "--max-fps", FPS / 2, "--max-side", 80)
    assert [answer["time_s"] for answer in said] == pytest.approx([0, 0.2, 0.4, 0.6], abs=0.01)
    assert {tuple(answer["image"].values()) for answer in said} == {(80, 60)}


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


# --- what is told ----------------------------------------------------------------------------------------------------


def test_a_key_is_given_from_the_environment(
    serve: Callable[..., Server], film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(api_keys=("Schlüssel",))
    monkeypatch.setenv("OKDHP_API_KEY", "Schlüssel")
    assert len(answers(film, "--url", server.url)) == 8
    monkeypatch.setenv("OKDHP_API_KEY", "wrong")
    assert refused("watch", film, "--url", server.url) == (
        f"okdhp: {server.url}: the service closed the stream with 1008: API key missing or wrong"
    )


@pytest.mark.parametrize(("arguments", "complaint"), [
    (["--options", '{"tiles": 99}'], "--options: tiles: at most 4 here"),
    (["--options", "tiles=2"], "1003: text messages are JSON options; send frames as binary messages"),
    (["--url", "localhost:8000"], "the service's address is like http://localhost:8000, got 'localhost:8000'"),
    (["--url", "URL/elsewhere"], "server rejected WebSocket connection: HTTP 403"),
])  # fmt: skip
def test_what_the_service_will_not_have_is_told_in_one_line(
    server: Server, film: Path, arguments: list[str], complaint: str
) -> None:
    arguments = [argument.replace("URL", server.url) for argument in arguments]
    assert complaint in refused("watch", film, "--url", server.url, *arguments)


def test_what_is_no_video_is_told_in_one_line(server: Server, tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("no video")
    assert refused("watch", tmp_path / "absent.mp4") == (
        f"okdhp: {tmp_path}/absent.mp4: no such file; a camera is an address (rtsp://...) or a number"
    )
    assert refused("watch", text, "--url", server.url) == f"okdhp: {text}: not a video that can be read"


@pytest.mark.parametrize(("url", "wanted"), [
    ("http://localhost:8000", "ws://localhost:8000/stream"),
    ("https://pose.example/", "wss://pose.example/stream"),
    ("ws://[::1]:8000/stream", "ws://[::1]:8000/stream"),
    ("https://example/behind/a/proxy", "wss://example/behind/a/proxy/stream"),
])  # fmt: skip
def test_a_services_address_leads_to_its_stream(url: str, wanted: str) -> None:
    assert Service(url).stream_url() == wanted
