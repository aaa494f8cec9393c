"""The command line."""

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import httpx
import pytest
from serving import encoded, free_port, picture
from tiny import make_fixed_detector
from typer.testing import CliRunner

from app.cli import app
from app.settings import Settings

runner = CliRunner()
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)  # no .env but the test's own


@pytest.fixture
def with_tiny_models(monkeypatch: pytest.MonkeyPatch, tiny_models: dict[str, Path]) -> None:
    for name, path in tiny_models.items():
        monkeypatch.setenv(f"POSE_{name.upper()}", str(path))


@pytest.mark.usefixtures("with_tiny_models")
def test_predict_prints_the_people_and_draws_them(tmp_path: Path) -> None:
    path, drawn = tmp_path / "picture.png", tmp_path / "drawn.jpg"
    path.write_bytes(encoded(picture(boxes=((10, 20, 34, 70),))))
    result = runner.invoke(app, ["predict", str(path), "--render", str(drawn)])
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert len(answer["people"]) == 1 and answer["image"] == {"width": 120, "height": 90}
    assert list(answer["timing_ms"]) == ["decode", "queue", "detect", "pose", "total"]
    assert drawn.read_bytes().startswith(b"\xff\xd8\xff")


@pytest.mark.usefixtures("with_tiny_models")
@pytest.mark.parametrize(("name", "beginning"), [
    ("drawn.jpeg", b"\xff\xd8\xff"), ("drawn.PNG", b"\x89PNG"), ("drawn.webp", b"RIFF")
])  # fmt: skip
def test_predict_draws_in_the_format_that_the_name_says(tmp_path: Path, name: str, beginning: bytes) -> None:
    path, drawn = tmp_path / "picture.png", tmp_path / name
    path.write_bytes(encoded(picture(boxes=((10, 20, 34, 70),))))
    assert runner.invoke(app, ["predict", str(path), "--render", str(drawn)]).exit_code == 0
    assert drawn.read_bytes().startswith(beginning)


@pytest.mark.usefixtures("with_tiny_models")
@pytest.mark.parametrize(("arguments", "complaint"), [
    (["--render", "drawn.gif"], "a drawn picture's name ends in .jpg, .jpeg, .png, .webp, not in '.gif'"),
    (["--render", "drawn"], "a drawn picture's name ends in .jpg, .jpeg, .png, .webp, not in ''"),
    (["--render", "absent/drawn.png"], "[Errno 2] No such file or directory: 'absent/drawn.png'"),
    (["--tiles", "5"], "tiles: at most 4 here"),
])  # fmt: skip
def test_what_predict_cannot_do_is_said_in_one_line(tmp_path: Path, arguments: list[str], complaint: str) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(encoded(picture()))
    result = runner.invoke(app, ["predict", str(path), *arguments])
    assert (result.exit_code, result.stderr) == (2, f"okdhp: {complaint}\n")


def test_predict_refuses_a_name_it_cannot_draw_into_before_it_loads_anything(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("POSE_POSE_MODEL", "absent.onnx")
    path = tmp_path / "picture.png"
    path.write_bytes(encoded(picture()))
    result = runner.invoke(app, ["predict", str(path), "--render", "drawn.gif"])
    assert result.exit_code == 2 and "not in '.gif'" in result.stderr


def test_predict_looks_in_tiles_as_the_service_does(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_models: dict[str, Path]
) -> None:
    """Each look of this detector finds one person in the same place of what it sees."""
    detector = make_fixed_detector(tmp_path / "fixed.onnx", 64, [(20, 20, 30, 44)])
    for name, path in (tiny_models | {"detector_model": detector}).items():
        monkeypatch.setenv(f"POSE_{name.upper()}", str(path))
    path = tmp_path / "picture.png"
    path.write_bytes(encoded(picture(600, 600, ((0, 0, 600, 600),))))
    found = {tiles: runner.invoke(app, ["predict", str(path), "--tiles", tiles]).stdout for tiles in "124"}
    counts = [len(json.loads(text)["people"]) for text in found.values()]
    assert counts[0] == 1 and counts[0] < counts[1] < counts[2]


@pytest.mark.usefixtures("with_tiny_models")
def test_predict_names_what_is_wrong_with_a_picture(tmp_path: Path) -> None:
    path = tmp_path / "picture.txt"
    path.write_text("hello")
    result = runner.invoke(app, ["predict", str(path)])
    assert result.exit_code == 2 and result.stderr == "okdhp: the picture is not a JPEG, PNG or WebP file\n"


def test_a_missing_model_stops_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("POSE_POSE_MODEL", "absent.onnx")
    path = tmp_path / "picture.png"
    path.write_bytes(encoded(picture()))
    result = runner.invoke(app, ["predict", str(path)])
    assert result.exit_code == 2 and result.stderr == "okdhp: absent.onnx: no such model file\n"


def test_an_unknown_setting_stops_serve_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSE_PROT", "80")
    result = runner.invoke(app, ["serve"])
    assert result.exit_code == 2 and result.stderr == "okdhp: unknown setting POSE_PROT\n"


def test_serve_without_the_checkouts_page_stops_in_one_line(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "app", tmp_path / "app")  # as an install that is not editable has it: without static/
    command = [sys.executable, "-m", "app.cli", "serve", "--port", "0"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    wanted = "install with pip install -e from a checkout"
    assert (ended.returncode, ended.stderr) == (2, f"okdhp: the page is missing at {tmp_path / 'static'}: {wanted}\n")


def test_serve_without_its_networks_stops_in_one_line_and_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSE_POSE_MODEL", "absent.onnx")
    monkeypatch.setenv("POSE_PORT", "wrong, but overridden")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    command = [sys.executable, "-m", "app.cli", "serve", "--port", "0"]
    stopped = subprocess.run(command, capture_output=True, text=True, check=False)
    assert stopped.returncode == 3
    assert '"event": "absent.onnx: no such model file"' in stopped.stderr and "Traceback" not in stopped.stderr


def test_where_pytorch_is_not_installed_a_command_that_trains_says_what_to_install() -> None:
    without = "import sys; sys.modules['torch'] = None; from app.cli import app; app()"
    command = [sys.executable, "-c", without, "train", "recipe.toml", "--data", "people", "--out", "run"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    missing = "training needs PyTorch and more (torch is missing): pip install -c constraints.txt -e '.[train]'"
    assert (ended.returncode, ended.stderr) == (2, f"okdhp: {missing}\n")


@pytest.fixture
def serve(
    monkeypatch: pytest.MonkeyPatch, with_tiny_models: None
) -> Callable[..., AbstractContextManager[tuple[subprocess.Popen[bytes], httpx.Client]]]:
    """Starts `okdhp serve` with these settings in a process of its own, and a client for it; {port} is a free one."""

    @contextmanager
    def started(*arguments: str, **settings: object) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client]]:
        port = free_port()
        for name, value in {"port": port, "drain_s": 0, **settings}.items():
            monkeypatch.setenv(f"POSE_{name.upper()}", str(value))
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        given = [argument.format(port=port) for argument in arguments]
        command = [sys.executable, "-m", "app.cli", "serve", *given]
        with open("stderr", "wb") as log, subprocess.Popen(command, stderr=log) as process:
            try:
                retrying = httpx.HTTPTransport(retries=12)  # the longer the more often it failed: minutes in all
                with httpx.Client(base_url=f"http://127.0.0.1:{port}", transport=retrying, timeout=60) as client:
                    assert client.get("/readyz").status_code == 200
                    yield process, client
            finally:
                process.kill()

    return started


def test_a_service_listens_where_the_command_line_says_and_not_where_a_setting_does(serve) -> None:
    with serve("--host", "127.0.0.1", "--port", "{port}", host="192.0.2.1", port=0) as (_, client):
        assert client.get("/livez").status_code == 200


def test_a_service_logs_nothing_less_important_than_was_asked_for(serve, tmp_path: Path) -> None:
    with serve(log_level="warning") as (process, _):
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    assert (tmp_path / "stderr").read_text() == ""


@pytest.mark.parametrize(("trusted", "second"), [("127.0.0.1", 422), ("192.0.2.1", 429)])
def test_who_a_client_is_only_a_trusted_proxy_can_say(serve, trusted: str, second: int) -> None:
    with serve(trusted_proxies=trusted, rate_limit_per_minute=1) as (_, client):
        asked = [
            client.post("/pose", files={"picture": b""}, headers={"X-Forwarded-For": address}).status_code
            for address in ("198.51.100.1", "198.51.100.2")
        ]
    assert asked == [422, second]


def test_a_service_that_is_to_stop_says_so_until_it_does(serve) -> None:
    with serve(drain_s=3600) as (process, client):
        process.send_signal(signal.SIGTERM)
        while (ready := client.get("/readyz")).status_code == 200:
            pass
        assert ready.status_code == 503 and ready.json()["draining"] is True
        refused = client.post("/pose", content=encoded(picture()), headers={"content-type": "image/png"})
        assert refused.status_code == 503 and "retry-after" in refused.headers
        process.send_signal(signal.SIGTERM)  # and again: at once
        assert process.wait(60) == -signal.SIGTERM


def test_a_service_closes_its_doors_when_it_has_drained_and_its_log_says_when_that_began(serve, tmp_path: Path) -> None:
    with serve(drain_s=0.2) as (process, _):
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == -signal.SIGTERM
    lines = [json.loads(line) for line in (tmp_path / "stderr").read_text().splitlines()]
    (began,) = [line for line in lines if line["logger"] == "app.server"]
    assert began["event"] == "draining: new work is refused until the doors close"
    assert (began["level"], began["signal"], began["drain_s"]) == ("info", "SIGTERM", 0.2)


def test_a_service_that_is_interrupted_ends_at_once_without_a_complaint_and_logs_each_request_once(
    serve, tmp_path: Path
) -> None:
    with serve(drain_s=3600) as (process, client):
        client.get("/no/such/path")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    lines = [json.loads(line) for line in (tmp_path / "stderr").read_text().splitlines()]
    assert [line["logger"] for line in lines if "/no/such/path" in str(line)] == ["app.access"]


def test_serve_help_lists_every_setting_with_its_default_as_it_would_be_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    text = runner.invoke(app, ["serve", "--help"]).output
    for name in Settings.model_fields:
        assert f"POSE_{name.upper()}" in text
    defaults = dict(re.findall(r"POSE_(\w+) = (.*?) *$", text, flags=re.MULTILINE))
    shown = (defaults["POSE_MODEL"], defaults["TRUSTED_PROXIES"], defaults["API_KEYS"])
    assert shown == ("weights/pose.onnx", "127.0.0.1", "")
