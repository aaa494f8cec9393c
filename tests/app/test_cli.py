"""The command line."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from serving import encoded, picture
from typer.testing import CliRunner

from app.cli import app
from app.settings import Settings

runner = CliRunner()


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
    assert len(json.loads(result.stdout)["people"]) == 1
    assert drawn.read_bytes().startswith(b"\xff\xd8\xff")


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


def test_serve_without_its_networks_stops_in_one_line_and_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSE_POSE_MODEL", "absent.onnx")
    monkeypatch.setenv("POSE_PORT", "0")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent.parent))
    stopped = subprocess.run([sys.executable, "-m", "app.cli", "serve"], capture_output=True, text=True, check=False)
    assert stopped.returncode == 3
    assert '"event": "absent.onnx: no such model file"' in stopped.stderr and "Traceback" not in stopped.stderr


@pytest.mark.usefixtures("with_tiny_models")
@pytest.mark.parametrize(("trusted", "second"), [("127.0.0.1", 422), ("192.0.2.1", 429)])
def test_who_a_client_is_only_a_trusted_proxy_can_say(
    monkeypatch: pytest.MonkeyPatch, trusted: str, second: int
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for name, value in {"PORT": str(port), "TRUSTED_PROXIES": trusted, "RATE_LIMIT_PER_MINUTE": "1"}.items():
        monkeypatch.setenv(f"POSE_{name}", value)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent.parent))
    with subprocess.Popen([sys.executable, "-m", "app.cli", "serve"], stderr=subprocess.DEVNULL) as service:
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", transport=httpx.HTTPTransport(retries=12)) as client:
                asked = [
                    client.post("/pose", files={"picture": b""}, headers={"X-Forwarded-For": address}).status_code
                    for address in ("198.51.100.1", "198.51.100.2")
                ]
        finally:
            service.terminate()
    assert asked == [422, second]


def test_serve_help_lists_every_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    text = runner.invoke(app, ["serve", "--help"]).output
    for name in Settings.model_fields:
        assert f"POSE_{name.upper()}" in text
