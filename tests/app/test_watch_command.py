"""What `okdhp watch` says and how it ends, with a real service with the tiny networks."""

import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cameras import MotionJpeg, answers
from commandline import refused
from serving import Server

from app.camera import without_secrets
from app.watching import Service


def test_a_key_is_given_from_the_environment(
    serve: Callable[..., Server], film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(api_keys=("Schlüssel 密",))
    monkeypatch.setenv("OKDHP_API_KEY", "Schlüssel 密")
    assert len(answers(film, "--url", server.url)) == 8
    monkeypatch.setenv("OKDHP_API_KEY", "wr\nong")
    assert refused("watch", film, "--url", server.url) == (
        "okdhp: the API key has a line break or another character that is not printed"
    )
    monkeypatch.setenv("OKDHP_API_KEY", "wrong")
    assert refused("watch", film, "--url", server.url) == (
        f"okdhp: {server.url}: the service closed the stream with 1008: API key missing or wrong"
    )


@pytest.mark.parametrize(("arguments", "complaint"), [
    (["--options", '{"tiles": 99}'], "--options: tiles: at most 4 here"),
    (["--options", "tiles=2"], "1003: text messages are JSON options"),
    (["--url", "http:localhost:8000"], "the service's address is like http://localhost:8000"),
    (["--url", "ftp://me:s3cret@here/?key=s3cret"], "like http://localhost:8000, got 'ftp://here/?key=***'"),
    (["--url", "localhost:8000"], "the service's address is like http://localhost:8000, got 'localhost:8000'"),
    (["--url", "http://me@localhost:8000"], "ws://localhost:8000/stream"),
    (["--url", "URL/elsewhere?key=s3cret"], "/elsewhere/stream?key=***: server rejected"),
    (["--url", "URL/elsewhere"], "server rejected WebSocket connection: HTTP 404"),
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


def test_a_video_of_which_no_picture_can_be_decoded_is_told(server: Server, film: Path) -> None:
    data = film.read_bytes()
    broken = film.with_name("broken.avi")
    broken.write_bytes(re.sub(rb"\xff\xd8.*?\xff\xd9", lambda jpeg: bytes(len(jpeg[0])), data, flags=re.DOTALL))
    complaint = refused("watch", broken, "--url", server.url)
    assert complaint == f"okdhp: {broken}: no picture of this video can be read"


@pytest.mark.parametrize(("url", "wanted"), [
    ("http://localhost:8000", "ws://localhost:8000/stream"),
    ("https://pose.example/", "wss://pose.example/stream"),
    ("ws://[::1]:8000/stream", "ws://[::1]:8000/stream"),
    ("https://example/behind/a/proxy", "wss://example/behind/a/proxy/stream"),
])  # fmt: skip
def test_a_services_address_leads_to_its_stream(url: str, wanted: str) -> None:
    assert Service(url).stream_url() == wanted


@pytest.mark.parametrize(("address", "named"), [
    ("rtsp://me:se/cret@cam/live", "rtsp://me:se/cret@cam/live"),  # no address: a password's slash is written %2F
    ("rtsp://me:secret@cam:554/live?channel=1", "rtsp://cam:554/live?channel=1"),
    ("http://cam/a.mjpg?user=admin&pwd=s3/cr?3t&channel=2", "http://cam/a.mjpg?user=***&pwd=***&channel=2"),
    ("http://cam/a?loginpas=s3cr3t&api-key=s3cr3t#now", "http://cam/a?loginpas=***&api-key=***#now"),
    ("rtsp://cam/user=admin&password=s3cr3t&stream=0.sdp", "rtsp://cam/user=***&password=***&stream=0.sdp"),
    ("rtsp://cam/user=admin_password=s3_cr3t_channel=1.sdp", "rtsp://cam/user=***"),
    ("https://me:s3cr3t@pose.example/behind?key=s3cr3t", "https://pose.example/behind?key=***"),
    ("http://cam/?Channel=2&subtype=1&stream=s&unicast=yes&id=7", "http://cam/?Channel=2&subtype=1&stream=s&unicast=yes&id=7"),
])  # fmt: skip
def test_a_cameras_name_has_no_password_wherever_it_stands(address: str, named: str) -> None:
    assert without_secrets(address) == named


@pytest.mark.parametrize("how", ["interrupted", "terminated", "nobody reads on", "refused"])
def test_the_command_ends_cleanly_while_a_camera_is_read(
    server: Server, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that is in the middle of OpenCV at Python's end would abort the process."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    with MotionJpeg(pictures_an_answer=100_000).on() as camera:
        options = ["--options", "wrong"] if how == "refused" else []
        command = [sys.executable, "-m", "app.cli", "watch", camera.url, "--url", server.url, *options]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None and process.stderr is not None
            if how != "refused":
                process.stdout.readline()
            if how == "nobody reads on":
                process.stdout.close()
            if how == "interrupted":
                process.send_signal(signal.SIGINT)
            if how == "terminated":
                process.terminate()
            code, complaint = process.wait(30), process.stderr.read()
    assert code == {"interrupted": 130, "terminated": 143, "nobody reads on": 0, "refused": 2}[how]
    assert not any(word in complaint for word in ("terminate", "Traceback", "ignored", "trying again"))


def test_a_film_of_which_nobody_reads_on_ends_cleanly(
    server: Server, film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    command = [sys.executable, "-m", "app.cli", "watch", str(film), "--url", server.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert (process.wait(30), process.stderr.read()) == (0, "")
