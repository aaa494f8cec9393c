"""How an HTTP connection ends whose request never comes; the end that the client sees is the socket's own."""

import socket
from pathlib import Path

import pytest
from serving import Server, running

from app.connection import HttpProtocol
from app.settings import Settings

REQUEST = b"GET /livez HTTP/1.1\r\nHost: a\r\n"


def connected(server: Server) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=60)


def dropped(connection: socket.socket) -> bool:
    """Whether the next thing that comes is the connection's end."""
    try:
        return connection.recv(100) == b""
    except ConnectionResetError:
        return True


@pytest.fixture
def hasty(tiny_models: dict[str, Path], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(HttpProtocol, "headers_timeout_s", 0.3)
    with running(Settings(provider="cpu", **tiny_models)) as server:
        yield server


@pytest.mark.parametrize("sent", [b"", REQUEST], ids=["silent", "half a header block"])
def test_a_connection_without_a_whole_request_is_dropped(hasty: Server, sent: bytes) -> None:
    with connected(hasty) as connection:
        connection.sendall(sent)
        assert dropped(connection)
    assert hasty.client.get("/livez").status_code == 200


def test_a_second_request_has_to_be_whole_too(hasty: Server) -> None:
    with connected(hasty) as connection:
        connection.sendall(REQUEST + b"\r\n")
        answer = b""
        while b"live" not in answer:
            answer += connection.recv(1000)
        connection.sendall(REQUEST)
        assert dropped(connection)


@pytest.mark.parametrize(
    ("request_line", "more"), [(b"GET", b"\r\n"), (b"POST", b"x")], ids=["an empty line", "the rest of a refused body"]
)
def test_what_comes_after_an_answer_and_is_no_request_holds_no_connection(
    hasty: Server, request_line: bytes, more: bytes
) -> None:
    head = REQUEST.replace(b"GET", request_line)
    with connected(hasty) as connection:
        connection.sendall(head + (b"Content-Length: 99999\r\n\r\n" if request_line == b"POST" else b"\r\n"))
        assert connection.recv(1000).startswith(b"HTTP/1.1 " + (b"405" if request_line == b"POST" else b"200"))
        connection.sendall(more)
        while connection.recv(1000).startswith(b"{"):
            pass
        assert dropped(connection)


def test_a_connection_that_turns_to_websocket_after_an_answer_stays(hasty: Server) -> None:
    with connected(hasty) as connection:
        connection.sendall(REQUEST + b"\r\n")
        answer = b""
        while b"live" not in answer:
            answer += connection.recv(1000)
        upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        key = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        connection.sendall(REQUEST.replace(b"/livez", b"/stream") + upgrade + key + b"\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 101")
        connection.settimeout(1.0)  # longer than headers may take
        with pytest.raises(TimeoutError):
            connection.recv(100)


def test_a_whole_request_has_the_time_it_needs(hasty: Server) -> None:
    head = REQUEST.replace(b"GET /livez", b"POST /pose") + b"Content-Type: image/png\r\nContent-Length: 2\r\n\r\n"
    with connected(hasty) as connection:
        connection.sendall(head + b"x")
        connection.settimeout(1.0)  # longer than headers may take
        with pytest.raises(TimeoutError):
            connection.recv(100)
        connection.settimeout(60)
        connection.sendall(b"y")
        assert connection.recv(1000).startswith(b"HTTP/1.1 415")
