"""A container's health check asks where the service listens."""

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from serving import Server, free_port, running

import app.healthy
from app.healthy import healthy
from app.settings import Settings


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.parametrize(
    ("listens", "said"), [("127.0.0.1", "127.0.0.1"), ("127.0.0.1", "0.0.0.0"), ("::1", "::1"), ("::1", "::")]
)
def test_a_service_is_asked_at_the_address_that_it_is_given(
    tiny_models: dict[str, Path], listens: str, said: str
) -> None:
    if ":" in listens and not has_ipv6():
        pytest.skip("this machine has no IPv6")
    with running(Settings(provider="cpu", **tiny_models), host=listens) as server:
        port = int(server.url.rpartition(":")[2])
        assert healthy(said, port)
    assert not healthy(said, port)


def test_where_nobody_listens_nothing_is_healthy() -> None:
    assert not healthy("127.0.0.1", free_port())


def test_who_is_not_ready_is_not_healthy(tiny_models: dict[str, Path]) -> None:
    with running(Settings(provider="cpu", **tiny_models)) as server:  # type: ignore[arg-type]
        server.app.state.pipeline.drain()
        assert server.client.get("/livez").status_code == 200
        said = server.client.get("/readyz").json()
        assert (said["ready"], said["draining"]) == (False, True)
        assert not healthy("127.0.0.1", int(server.url.rpartition(":")[2]))


@pytest.mark.parametrize("said", [b"SSH-2.0-OpenSSH_9.2\r\n", None], ids=["of another kind", "that says nothing"])
def test_a_service_is_not_healthy(said: bytes | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.healthy, "TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def speak() -> None:
            connection, _ = listening.accept()
            with connection:
                if said is not None:
                    connection.sendall(said)
                while connection.recv(1000):
                    pass

        speaking = threading.Thread(target=speak, daemon=True)
        speaking.start()
        assert not healthy("127.0.0.1", listening.getsockname()[1])
        speaking.join()


def test_the_command_says_it_by_its_exit_status_of_the_service_in_the_settings(server: Server, tmp_path: Path) -> None:
    def status(port: object) -> int:
        where = {"POSE_HOST": "127.0.0.1", "POSE_PORT": str(port), "PYTHONPATH": str(Path(__file__).parents[2])}
        command = [sys.executable, "-m", "app.healthy"]
        return subprocess.run(command, cwd=tmp_path, env={**os.environ, **where}, check=False).returncode

    assert (status(server.url.rpartition(":")[2]), status(free_port())) == (0, 1)
