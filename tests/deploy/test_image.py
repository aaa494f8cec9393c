"""The Dockerfile, without a Docker engine: what it copies is enough to serve, and its health check can tell."""

import fnmatch
import json
import os
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from serving import free_port
from streams import eventually

ROOT = Path(__file__).parent.parent.parent
DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
INSTRUCTIONS = [line.partition(" ")[::2] for line in DOCKERFILE.splitlines() if line[:1].isupper()]
RULES = [rule for rule in (ROOT / ".dockerignore").read_text().splitlines() if rule and not rule.startswith("#")]
LET_THROUGH = {rule[1:] for rule in RULES if rule.startswith("!")}
IGNORED = [rule for rule in RULES if rule != "*" and not rule.startswith("!")]
# What is installed for development finds app, model and training in the checkout: in an image there is none.
NO_CHECKOUT = "import sys; sys.meta_path = [f for f in sys.meta_path if 'Editable' not in getattr(f, '__name__', '')]"


def arguments(instruction: str) -> list[str]:
    """The arguments of every such instruction."""
    return [given.strip() for name, given in INSTRUCTIONS if name == instruction]


def copied(given: str) -> tuple[list[str], list[str], str]:
    """Flags, sources and target of a COPY."""
    *words, target = shlex.split(given)
    flags = [word for word in words if word.startswith("--")]
    return flags, words[len(flags) :], target


COPIED = [copied(given) for given in arguments("COPY")]
DEPENDENCIES = ["pyproject.toml", "constraints.txt"]  # which root alone reads


def copy(source: Path, target: Path) -> None:
    """`source` of the checkout into the image, but for what .dockerignore names."""
    patterns = [pattern.removeprefix("**/") for pattern in IGNORED]

    def skipped(folder: str, names: list[str]) -> set[str]:
        inside = Path(folder).relative_to(ROOT)
        return {name for name in names for p in patterns if fnmatch.fnmatch(name, p) or (inside / name).match(p)}

    if source.is_dir():
        shutil.copytree(source, target, ignore=skipped)
    else:
        shutil.copy(source, target)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the image's service runs in: what the Dockerfile copies and .dockerignore lets through."""
    folder = tmp_path_factory.mktemp("image")
    for _, sources, target in COPIED:
        for source in sources:
            copy(ROOT / source, folder / target)
    (folder / "sitecustomize.py").write_text(NO_CHECKOUT + "\n")
    return folder


@contextmanager
def container(image: Path, tmp_path: Path) -> Iterator[tuple[httpx.Client, dict[str, str]]]:
    """The image's command in its folder, at home in `tmp_path`; a client once it answers, and its environment."""
    port = free_port()
    settings = {"POSE_PORT": str(port), "POSE_DRAIN_S": "0", "HTTP_PROXY": "http://127.0.0.1:9"}
    environment = {**os.environ, **settings, "PYTHONPATH": str(image), "HOME": str(tmp_path)}
    command = [sys.executable, "-m", "app.cli", *json.loads(arguments("CMD")[-1])]
    with subprocess.Popen(command, cwd=image, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as client:
                up = eventually(lambda: process.poll() is not None or answers(client), seconds=90)
                if not up or process.poll() is not None:
                    process.kill()
                    pytest.fail(f"it does not serve: {process.communicate()[1]}")
                yield client, environment
        finally:
            process.kill()


def answers(client: httpx.Client) -> bool:
    """Whether anybody is there."""
    try:
        return client.get("/livez").status_code == 200
    except httpx.TransportError:
        return False


def test_what_is_copied_is_not_ignored() -> None:
    assert {source for _, sources, _ in COPIED for source in sources} == LET_THROUGH


def test_the_service_s_user_may_read_what_a_checkout_under_any_umask_holds() -> None:
    assert [flags for flags, sources, _ in COPIED if sources != DEPENDENCIES] == [["--chmod=755"]] * 3


def test_the_entry_point_is_the_one_that_is_installed() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    (command,) = json.loads(arguments("ENTRYPOINT")[0])
    assert scripts[command] == "app.cli:app"


def test_the_image_serves_the_bundled_weights_and_the_page_is_healthy_and_writes_nothing(
    image: Path, real_models: dict[str, Path], tmp_path: Path
) -> None:
    def healthy() -> bool:
        _, *check = json.loads(arguments("HEALTHCHECK")[0].partition("CMD")[2])
        return subprocess.run([sys.executable, *check], cwd=image, env=environment, check=False).returncode == 0

    with container(image, tmp_path) as (client, environment):
        assert client.get("/readyz").json()["ready"] is True
        assert [model["version"] for model in client.get("/models").json()["models"]] == [
            json.loads((ROOT / "weights" / f"{name}.json").read_text())["version"] for name in ("detector", "pose")
        ]
        assert "<title>" in client.get("/").text
        assert healthy()
    assert not healthy(), "healthy although nobody serves"
    assert not list(tmp_path.iterdir()), "its home is read-only in a container, and nobody asked for telemetry"
