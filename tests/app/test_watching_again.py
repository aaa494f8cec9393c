"""`okdhp watch` where the service does not have it at once: when it tries again, how soon, and with what."""

import asyncio
import json
import shutil
import ssl
import subprocess
import time
from http import HTTPStatus
from pathlib import Path
from socket import SHUT_RDWR
from typing import Any

import pytest
from cameras import MotionJpeg, answers, listening, watched
from commandline import refused
from serving import Server
from streams import eventually

import app.watching
from app.camera import Camera
from app.watching import Service, watch


def answering(socket: Any) -> None:
    """Every frame."""
    for number, _ in enumerate(socket):
        socket.send(json.dumps({"frame": number}))


@pytest.mark.usefixtures("trying_again_soon")
@pytest.mark.parametrize("code", [1011, 1012, 1013, None])
def test_a_stream_that_was_closed_for_what_passes_is_opened_again(film: Path, code: int | None) -> None:
    """None: without a word."""
    closed: list[bool] = []

    def busy_at_first(socket: Any) -> None:
        if closed:
            answering(socket)
        else:
            closed.append(True)
            socket.socket.shutdown(SHUT_RDWR) if code is None else socket.close(code, "not now")

    with listening(busy_at_first) as url:
        said = answers(film, "--url", url)
    assert [(answer["connection"], answer["frame"]) for answer in said] == [(1, number) for number in range(8)]


@pytest.mark.usefixtures("trying_again_soon")
@pytest.mark.parametrize("status", [408, 429, 502, 503])
def test_a_stream_that_a_proxy_refused_for_what_passes_is_asked_for_again(film: Path, status: int) -> None:
    asked: list[bool] = []

    def busy_at_first(connection: Any, request: Any) -> Any:
        asked.append(True)
        return connection.respond(HTTPStatus(status), "not now") if len(asked) == 1 else None

    with listening(answering, process_request=busy_at_first) as url:
        assert len(answers(film, "--url", url)) == 8
    assert len(asked) == 2


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_a_stream_that_is_refused_for_good_is_not_asked_for_again(film: Path, status: int) -> None:
    with listening(answering, process_request=lambda one, _: one.respond(HTTPStatus(status), "no")) as url:
        complaint = refused("watch", film, "--url", url)
    assert complaint == f"okdhp: {url}: server rejected WebSocket connection: HTTP {status}"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate with")
def test_a_service_whose_certificate_is_not_trusted_is_told_with_what_helps(
    film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=us -addext subjectAltName=IP:127.0.0.1"
    subprocess.run([*command.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with listening(answering, ssl=context) as url:
        url = url.replace("ws://", "https://")
        complaint = refused("watch", film, "--url", url)
        assert complaint.endswith("; a certificate of one's own is trusted by SSL_CERT_FILE")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert len(answers(film, "--url", url)) == 8


@pytest.mark.parametrize("code", [1001, 1013, None])
@pytest.mark.parametrize("answered_once", [False, True])
def test_a_service_that_keeps_closing_is_not_stormed(
    film: Path, code: int | None, answered_once: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Only where a stream was answered and its time was up, the next one begins at once."""
    connections: list[bool] = []

    def closing(socket: Any) -> None:
        connections.append(True)
        if answered_once and len(connections) == 1:
            socket.recv()
            socket.send(json.dumps({"frame": 0}))
        socket.socket.shutdown(SHUT_RDWR) if code is None else socket.close(code, "not now")

    at_once = 2 if answered_once and code == 1001 else 1
    monkeypatch.setattr(app.watching, "RETRY_S", 1000.0)  # longer than the test waits

    async def run() -> None:
        watching = asyncio.create_task(watch([Camera(str(film), max_fps=9, max_side=99)], Service(url), print))
        async with asyncio.timeout(20):
            while caplog.text.count("connecting again") < at_once:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        watching.cancel()

    with listening(closing) as url:
        asyncio.run(run())
    assert len(connections) == at_once


@pytest.mark.usefixtures("trying_again_soon")
def test_a_camera_s_old_frames_are_not_sent_again() -> None:
    received: list[bytes] = []

    def breaking_once(socket: Any) -> None:
        for number, frame in enumerate(socket):
            received.append(frame)
            if len(received) == 1:
                socket.close(1012)
            socket.send(json.dumps({"frame": number}))

    with listening(breaking_once) as url, MotionJpeg(pictures_an_answer=1000).on() as camera:
        watched(camera.url, Service(url), lambda said: len(said) == 3)
    assert len(received) >= 4 and received[0] not in received[1:]


def test_a_frame_that_the_service_dropped_for_a_newer_one_is_not_waited_for() -> None:
    def every_second(socket: Any) -> None:
        for number, _ in enumerate(socket):
            if number % 2:
                socket.send(json.dumps({"frame": number}))

    with listening(every_second) as url, MotionJpeg(pictures_an_answer=1000).on() as camera:
        said = watched(camera.url, Service(url), lambda said: len(said) == 3)
    assert [answer["frame"] for answer in said] == [1, 3, 5]


def test_a_camera_s_frames_have_the_time_of_day(server: Server) -> None:
    began = time.time()
    with MotionJpeg(pictures_an_answer=1000).on() as camera:
        said = watched(camera.url, Service(server.url), lambda said: len(said) == 2)
    assert began - 1 < said[0]["time_s"] <= said[1]["time_s"] <= time.time() + 1


def test_whoever_stops_to_watch_leaves_no_camera_open(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.watching, "JOIN_S", 20.0)

    async def run() -> None:
        camera = Camera(source.url, max_fps=100, max_side=100)
        seen = asyncio.Event()
        watching = asyncio.create_task(watch([camera], Service(server.url), lambda _: seen.set()))
        async with asyncio.timeout(20):
            await seen.wait()
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        assert not camera.reading

    with MotionJpeg(pictures_an_answer=100_000).on() as source:
        asyncio.run(run())


def test_a_camera_whose_thread_does_not_end_keeps_nobody_waiting(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stuck(Camera):
        reading = True  # as one that hangs in a driver

    async def run() -> None:
        async with asyncio.timeout(20):
            await watch([Stuck(str(film), max_fps=100, max_side=100)], Service(url), said.append)

    said = list[dict[str, Any]]()
    monkeypatch.setattr(app.watching, "JOIN_S", 0.1)
    with listening(answering) as url:
        asyncio.run(run())
    assert len(said) == 8


def test_a_file_whose_next_frame_nobody_takes_is_closed_all_the_same(film: Path) -> None:
    async def run() -> Camera:
        camera = Camera(str(film), max_fps=100, max_side=100)
        assert await camera.next() is not None
        while camera._shot is None:
            await asyncio.sleep(0.01)
        camera.close()
        return camera

    camera = asyncio.run(run())
    assert eventually(lambda: not camera.reading)


def test_a_number_is_a_camera_of_this_machine() -> None:
    async def made() -> Camera:
        return Camera("0", max_fps=1, max_side=100)

    camera = asyncio.run(made())
    assert (camera.is_file, camera.name) == (False, "0")


def test_what_a_services_address_asks_for_is_asked_of_its_stream() -> None:
    assert Service("https://example/pose/?token=a#top").stream_url() == "wss://example/pose/stream?token=a"
