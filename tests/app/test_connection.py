"""How an HTTP connection ends whose request never comes, or whose answer is not taken.

The end that the client sees is the socket's own.
"""

import asyncio
import select
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from serving import Server, encoded, picture, running
from streams import eventually, held_poses
from uvicorn.server import ServerState

from app.connection import HttpProtocol
from app.settings import Settings

REQUEST = b"GET /livez HTTP/1.1\r\nHost: a\r\n"
REFUSED = REQUEST.replace(b"GET", b"POST") + b"Content-Length: 99999\r\n\r\n"


def connected(server: Server) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=60)


def answered(connection: socket.socket, request: bytes) -> bytes:
    """The whole answer, whose body is a JSON object."""
    connection.sendall(request)
    answer = b""
    while not answer.endswith(b"}"):
        part = connection.recv(1000)
        assert part, f"the answer ended early: {answer!r}"
        answer += part
    return answer


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
        answered(connection, REQUEST + b"\r\n")
        connection.sendall(REQUEST)
        assert dropped(connection)


@pytest.mark.parametrize(
    ("sent", "status", "more"),
    [(REQUEST + b"\r\n", b"200", b"\r\n"), (REFUSED, b"405", b"x")],
    ids=["an empty line", "the rest of a refused body"],
)
def test_what_comes_after_an_answer_and_is_no_request_holds_no_connection(
    hasty: Server, sent: bytes, status: bytes, more: bytes
) -> None:
    with connected(hasty) as connection:
        assert answered(connection, sent).startswith(b"HTTP/1.1 " + status)
        connection.sendall(more)
        assert dropped(connection)


def test_crumbs_after_an_answer_do_not_prolong_a_connection(hasty: Server) -> None:
    with connected(hasty) as connection:
        answered(connection, REQUEST + b"\r\n")
        for _ in range(200):  # ten seconds
            connection.sendall(b"\r\n")
            if select.select([connection], [], [], 0.05)[0]:
                break
        assert select.select([connection], [], [], 0)[0] and dropped(connection)


def test_a_connection_that_turns_to_websocket_after_an_answer_stays(hasty: Server) -> None:
    with connected(hasty) as connection:
        answered(connection, REQUEST + b"\r\n")
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


@pytest.mark.parametrize(
    "beginning",
    [
        REQUEST + b"X-Endless: ",
        b"GET /livez?",
        REQUEST.replace(b"GET /livez", b"POST /pose") + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX-Endless: ",
    ],
    ids=["header", "address", "trailer"],
)
def test_an_endless_header_is_refused_long_before_its_time_is_over(server: Server, beginning: bytes) -> None:
    with connected(server) as connection:
        connection.sendall(beginning)
        ended, sent = False, 0
        while not ended:
            try:
                connection.sendall(b"a" * 1000)
            except OSError:  # the service has closed
                break
            sent += 1000
            ended = bool(select.select([connection], [], [], 0.001)[0])
        assert sent < 1_000_000
        if b"chunked" not in beginning:  # its answer would come into the middle of another
            assert connection.recv(1000).startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")


def test_long_headers_that_end_are_taken(server: Server) -> None:
    with connected(server) as connection:
        assert answered(connection, REQUEST + b"X-Long: " + b"a" * 60_000 + b"\r\n\r\n").startswith(b"HTTP/1.1 200")


def test_a_client_who_leaves_after_pipelined_requests_is_no_internal_error(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    photograph = encoded(picture(boxes=((10, 20, 34, 70),)), ".jpg")
    head = REQUEST.replace(b"GET /livez", b"POST /pose") + b"Content-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n"
    with held_poses(server) as held, caplog.at_level("INFO", "app.access"):
        with connected(server) as connection:
            connection.sendall(head % len(photograph) + photograph + head % 99)
            assert held.entered.wait(20)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        threading.Event().wait(0.2)  # the service may hear of it, or not before it answers
        held.release.set()
        assert eventually(lambda: bool(caplog.records))
        server.client.get("/livez")
    assert {record.message for record in caplog.records} == {"request"}


def test_of_a_connection_s_requests_only_the_last_is_kept_once_all_are_answered(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, begin = list[HttpProtocol](), HttpProtocol.connection_made

    def noted(protocol: HttpProtocol, transport: asyncio.Transport) -> None:
        made.append(protocol)
        begin(protocol, transport)

    monkeypatch.setattr(HttpProtocol, "connection_made", noted)
    with connected(server) as connection:
        for _ in range(5):
            answered(connection, REQUEST + b"\r\n")
        (protocol,) = made
        assert len(protocol._cycles) == 1


def test_a_large_body_is_not_taken_for_a_long_header(server: Server) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (700, 700, 3), np.uint8)
    assert server.client.post("/pose", content=encoded(noise)).status_code == 200


def test_of_many_requests_at_once_some_are_answered_and_then_the_connection_ends(server: Server) -> None:
    """Ten thousand of them in a read would hold all others up for seconds."""
    with connected(server) as connection:
        connection.sendall((REQUEST + b"\r\n") * 1000)
        answers = b""
        while part := connection.recv(100_000):
            answers += part
    *others, last = answers.split(b"HTTP/1.1 200 OK\r\n")[1:]
    assert len(others) == HttpProtocol.most_pipelined
    assert b"connection: close" in last and b"connection: close" not in b"".join(others)


def test_what_is_no_http_gets_a_problem(server: Server) -> None:
    with connected(server) as connection:
        answer = answered(connection, b"GET x\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/problem+json\r\n")
        assert dropped(connection)


def test_a_body_that_is_no_http_gets_a_problem(server: Server) -> None:
    head = REQUEST.replace(b"GET /livez", b"POST /pose") + b"Transfer-Encoding: chunked\r\n\r\n"
    with connected(server) as connection:
        assert answered(connection, head + b"no length\r\n").startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert dropped(connection)


def test_what_is_no_http_after_requests_that_wait_is_not_answered_in_their_place(server: Server) -> None:
    photograph = encoded(picture(boxes=((10, 20, 34, 70),)), ".jpg")
    head = REQUEST.replace(b"GET /livez", b"POST /pose") + b"Content-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n"
    with held_poses(server), connected(server) as connection:
        connection.sendall(head % len(photograph) + photograph + REQUEST + b"\r\n" + b"GET x\r\n\r\n")
        assert dropped(connection)


@pytest.mark.parametrize(
    "headers",
    [b"X: y\r\n" * 130, b"Cookie: " + b"a" * 9000 + b"\r\n", b"Content-Length: 3\r\n"],
    ids=["many", "long", "of a body"],
)
def test_a_handshake_that_no_websocket_has_is_answered_and_ended(server: Server, headers: bytes) -> None:
    handshake = (
        b"GET /stream HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
    )
    with connected(server) as connection:
        assert answered(connection, handshake + headers + b"\r\n").startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert dropped(connection)


def asked(client: Callable[[socket.socket], None]) -> None:
    """What `client` does after it has asked an application whose every answer has ANSWER_BYTES."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        length = str(ANSWER_BYTES).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
        await send({"type": "http.response.body", "body": bytes(ANSWER_BYTES)})

    def connect(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
            connection.sendall(REQUEST + b"\r\n")
            client(connection)

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: HttpProtocol(config, ServerState(), {}), "127.0.0.1", 0)
        await asyncio.to_thread(connect, server.sockets[0].getsockname()[1])
        server.close()

    config = uvicorn.Config(application, log_config=None)
    config.load()
    asyncio.run(serve())


ANSWER_BYTES = 20_000_000  # more than the kernel takes


@pytest.mark.parametrize("pieces", [0, 10])
def test_a_client_who_does_not_take_an_answer_is_dropped(monkeypatch: pytest.MonkeyPatch, pieces: int) -> None:
    monkeypatch.setattr(HttpProtocol, "taking_timeout_s", 1.0)

    def client(connection: socket.socket) -> None:
        for _ in range(pieces):
            connection.recv(1_000_000)
            threading.Event().wait(0.15)  # longer, together, than nothing may be taken
        poll = select.poll()
        poll.register(connection, 0)  # errors only: nothing is read
        assert poll.poll(20_000), "the connection still stands"

    asked(client)


def test_who_takes_an_answer_slowly_gets_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HttpProtocol, "taking_timeout_s", 1.0)
    monkeypatch.setattr(HttpProtocol, "least_taken_bytes", 1)

    def client(connection: socket.socket) -> None:
        taken = 0
        while taken < ANSWER_BYTES:
            part = connection.recv(1_000_000)
            assert part, "the answer ended early"
            taken += len(part)
            threading.Event().wait(0.15)

    asked(client)


def test_who_has_taken_an_answer_may_wait_and_ask_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HttpProtocol, "taking_timeout_s", 1.0)

    def client(connection: socket.socket) -> None:
        for _ in range(2):
            taken = 0
            while taken < ANSWER_BYTES:
                part = connection.recv(1_000_000)
                assert part, "the answer ended early"
                taken += len(part)
            threading.Event().wait(1.2)
            connection.sendall(REQUEST + b"\r\n")

    asked(client)
