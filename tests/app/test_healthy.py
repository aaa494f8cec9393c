"""A container's health check asks where the service listens."""

import socket
from pathlib import Path

import pytest
from serving import free_port, running

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
