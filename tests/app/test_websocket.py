"""How a WebSocket's connection ends when its client does not read; the end that the client sees is the socket's own."""

import asyncio
import random
import select
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from app.websocket import WebSocketProtocol

HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
EMPTY = b"\x82\x80" + bytes(4)
BEGINNING, MORE = b"\x02\x81" + bytes(4) + b"a", b"\x00\x81" + bytes(4) + b"b"
PING = b"\x89\xfd" + bytes(4) + bytes(125)
PONG = b"\x8a\x80" + bytes(4)
Send = Callable[[dict[str, Any]], Awaitable[None]]
Story = Callable[[Send, WebSocketProtocol], Awaitable[None]]


async def fill(send: Send, protocol: WebSocketProtocol) -> None:
    """Send until the kernel takes no more, and a little waits in the transport."""
    while not protocol.transport.get_write_buffer_size():
        await send({"type": "websocket.send", "bytes": bytes(4000)})


def after(story: Story, client: Callable[[socket.socket], None]) -> None:
    """Serve one connection whose application accepts and then runs `story`, while `client` does its part."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await story(send, protocols[0])

    protocols: list[WebSocketProtocol] = []

    def protocol() -> WebSocketProtocol:
        protocols.append(WebSocketProtocol(config, ServerState(), {}))
        return protocols[0]

    def connect(port: int) -> None:
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.settimeout(20)
            connection.connect(("127.0.0.1", port))
            connection.sendall(HANDSHAKE)
            assert connection.recv(12) == b"HTTP/1.1 101"
            client(connection)

    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
        await asyncio.to_thread(connect, server.sockets[0].getsockname()[1])
        server.close()

    config = uvicorn.Config(application, log_config=None, ws_per_message_deflate=False)
    config.load()
    asyncio.run(serve())


def sends(data: bytes, answers: list[bytes]) -> Callable[[socket.socket], None]:
    """A client that sends `data` and waits for the end; what it hears until then goes to `answers`."""

    def client(connection: socket.socket) -> None:
        connection.sendall(data)
        while part := connection.recv(1000):
            answers.append(part)

    return client


def reset(connection: socket.socket) -> None:
    """Fail unless the connection breaks though nothing is read from it."""
    poll = select.poll()
    poll.register(connection, 0)  # errors only
    assert poll.poll(20_000), "the connection still stands"


def test_a_client_far_behind_is_reset_as_soon_as_the_application_ends():
    async def story(send: Send, protocol: WebSocketProtocol) -> None:
        await fill(send, protocol)
        protocol.transport.write(bytes(1_000_000))
        assert not protocol.writable.is_set()

    after(story, reset)


@pytest.mark.parametrize("closes", [True, False])
def test_a_client_who_leaves_the_last_bytes_unread_is_reset_after_a_grace(monkeypatch, closes):
    monkeypatch.setattr(WebSocketProtocol, "grace_s", 0.1)

    async def story(send: Send, protocol: WebSocketProtocol) -> None:
        await fill(send, protocol)
        if closes:
            await send({"type": "websocket.close", "code": 1001})

    after(story, reset)


def test_a_client_who_reads_at_last_gets_everything_and_the_close():
    async def story(send: Send, protocol: WebSocketProtocol) -> None:
        await fill(send, protocol)
        await send({"type": "websocket.close", "code": 1001})

    def client(connection: socket.socket) -> None:
        last = b""
        while not last.endswith(b"\x88\x02\x03\xe9"):
            last = last[-10:] + connection.recv(65536)
        connection.sendall(b"\x88\x82" + bytes(4) + b"\x03\xe9")
        assert connection.recv(1) == b"", "closed, not reset"

    after(story, client)


def test_pings_of_a_client_who_does_not_read_fill_no_memory():
    async def story(send: Send, protocol: WebSocketProtocol) -> None:
        await fill(send, protocol)
        protocol.transport.write(bytes(1_000_000))
        before = protocol.transport.get_write_buffer_size()
        protocol.data_received(PING * 10_000)
        while protocol._pieces:
            await asyncio.sleep(0)
        assert protocol.transport.get_write_buffer_size() == before
        finished.append(True)

    finished: list[bool] = []
    after(story, reset)
    assert finished


def test_crumbs_leave_others_their_turns():
    async def story(send: Send, protocol: WebSocketProtocol) -> None:
        async def others() -> None:
            while True:
                turns.append(len(messages))
                await asyncio.sleep(0)

        messages: list[Any] = []
        waiting = asyncio.create_task(others())
        protocol.data_received(EMPTY * 20_000)
        while len(messages) < 20_000:
            messages.append(await protocol.receive())
        waiting.cancel()

    turns: list[int] = []
    after(story, sends(b"", []))
    assert max(late - early for early, late in zip(turns, turns[1:], strict=False)) < 2000


def test_nothing_more_is_read_while_crumbs_are_left_though_the_application_has_taken_every_message():
    """Else one who sends fast enough fills the memory with what was read and has not had its turn."""

    async def story(send: Send, protocol: WebSocketProtocol) -> None:
        protocol.data_received(EMPTY + PONG * 5000)
        await protocol.receive()
        reads.append((len(protocol._pieces) > 0, protocol.transport.is_reading()))
        while protocol._pieces:
            await asyncio.sleep(0)
        reads.append((False, protocol.transport.is_reading()))

    reads: list[tuple[bool, bool]] = []
    after(story, sends(b"", []))
    assert reads == [(True, False), (False, True)]


def test_what_is_taken_in_pieces_is_the_same():
    large = random.Random(0).randbytes(300_000)
    frame = b"\x82\xff" + len(large).to_bytes(8) + bytes(4) + large

    async def story(send: Send, protocol: WebSocketProtocol) -> None:
        for _ in range(2002):
            received.append((await protocol.receive())["bytes"])

    received: list[bytes] = []
    after(story, sends(frame + EMPTY * 2000 + frame, []))
    assert received == [large, *[b""] * 2000, large]


def test_a_message_in_endless_fragments_is_closed():
    async def story(send: Send, protocol: WebSocketProtocol) -> None:
        assert (await protocol.receive())["code"] == 1008

    answers: list[bytes] = []
    after(story, sends(BEGINNING + MORE * 12_000, answers))
    assert b"\x03\xf0a message may come in 10000 fragments" in b"".join(answers)


def test_a_message_in_many_fragments_is_taken():
    async def story(send: Send, protocol: WebSocketProtocol) -> None:
        received.append((await protocol.receive())["bytes"])

    received: list[bytes] = []
    after(story, sends(BEGINNING + MORE * 9_000 + b"\x80\x80" + bytes(4), []))
    assert received == [b"a" + b"b" * 9_000]
