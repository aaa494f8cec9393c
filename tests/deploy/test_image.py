"""The Dockerfile, without a Docker engine: what it copies is enough to serve, and its health check can tell."""

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parent.parent.parent
DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
INSTRUCTIONS = [line.partition(" ")[::2] for line in DOCKERFILE.splitlines() if line[:1].isupper()]


def arguments(instruction: str) -> list[str]:
    """The arguments of every such instruction."""
    return [given.strip() for name, given in INSTRUCTIONS if name == instruction]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the image's service runs in: what the Dockerfile copies and .dockerignore lets through."""
    folder = tmp_path_factory.mktemp("image")
    for *sources, target in map(shlex.split, arguments("COPY")):
        for source in sources:
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, folder / target, ignore=shutil.ignore_patterns("*.pt", "__pycache__"))
            else:
                shutil.copy(ROOT / source, folder / target)
    return folder


@contextmanager
def container(image: Path) -> Iterator[tuple[httpx.Client, dict[str, str]]]:
    """The image's command in its folder, in an environment that knows no other copy of the service."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {**os.environ, "POSE_PORT": str(port), "PYTHONPATH": str(image), "POSE_DRAIN_S": "0"}
    command = [sys.executable, "-m", "app.cli", *json.loads(arguments("CMD")[-1])]
    with subprocess.Popen(command, cwd=image, env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            with httpx.Client(
                base_url=f"http://127.0.0.1:{port}", transport=httpx.HTTPTransport(retries=12), timeout=60
            ) as client:
                yield client, environment
        finally:
            process.kill()


def test_what_is_copied_is_not_ignored() -> None:
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {source for given in arguments("COPY") for source in shlex.split(given)[:-1]}
    assert copied == let_through


def test_the_image_serves_the_bundled_weights_and_the_page_and_is_healthy(
    image: Path, real_models: dict[str, Path]
) -> None:
    healthy = json.loads(arguments("HEALTHCHECK")[0].partition("CMD")[2])
    with container(image) as (client, environment):
        assert client.get("/readyz").json()["ready"] is True
        assert [model["version"] for model in client.get("/models").json()["models"]] == [
            json.loads((ROOT / "weights" / f"{name}.json").read_text())["version"] for name in ("detector", "pose")
        ]
        assert "<title>" in client.get("/").text
        assert subprocess.run([sys.executable, *healthy[1:]], env=environment, check=False).returncode == 0
    assert subprocess.run(
        [sys.executable, *healthy[1:]], env=environment, check=False, stderr=subprocess.DEVNULL
    ).returncode, "healthy although nobody serves"
