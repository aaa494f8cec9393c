"""A client of /stream, and frames for it."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from serving import Server, encoded, picture
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

ONE = encoded(picture(boxes=((20, 20, 44, 70),)), ".jpg")
TWO = encoded(picture(boxes=((15, 20, 40, 70), (80, 20, 104, 70))), ".webp")
NOBODY = encoded(picture(), ".jpg")


def open_stream(server: Server, **options: Any) -> ClientConnection:
    return connect(server.url.replace("http", "ws") + "/stream", compression=None, open_timeout=20, **options)


def answer(stream: ClientConnection) -> dict[str, Any]:
    return json.loads(stream.recv(timeout=20))


def ask(stream: ClientConnection, message: bytes | dict[str, Any]) -> dict[str, Any]:
    stream.send(message if isinstance(message, bytes) else json.dumps(message))
    return answer(stream)


def close_of(stream: ClientConnection) -> tuple[int, str]:
    """Read until the server closes; its code and reason."""
    with pytest.raises(ConnectionClosed) as closed:
        while True:
            stream.recv(timeout=20)
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code, closed.value.rcvd.reason


@dataclass
class Held:
    """What a network that waits says and hears."""

    entered: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)


@contextmanager
def held_poses(server: Server) -> Iterator[Held]:
    """The pose network of `server`, busy with its next batch until it is released, or the block ends."""
    batcher, held = server.app.state.pipeline._pose.batcher, Held()
    run = batcher._run

    def wait(crops: Any) -> Any:
        held.entered.set()
        held.release.wait(20)
        return run(crops)

    batcher._run = wait
    try:
        yield held
    finally:
        held.release.set()
        batcher._run = run


def eventually(condition: Callable[[], bool], seconds: float = 20) -> bool:
    """Whether `condition` comes true: polled, so as long as needed and no longer."""
    pause = threading.Event()
    return any(condition() or pause.wait(0.02) for _ in range(int(seconds / 0.02)))
