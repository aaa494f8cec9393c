"""uvicorn's WebSocket protocol, with an end to what a client may leave unread, and to what it may send in crumbs.

uvicorn closes a connection only when the client has taken every byte: one who stops reading would keep the socket and
its buffers for ever, long after the application has ended and stopped counting the stream. And it takes all that comes
at once: some ten thousand frames of a byte or none would keep the event loop from everybody else for half a second
each time, and fragments of a message that never ends would fill the memory. And it closes on a message that is too
large in the middle of it: the kernel resets a connection that is closed with bytes unread, and the client would not
hear why. And a handshake that its parser does not take gets neither an answer nor an end.
"""

import asyncio
import logging
from collections import deque
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame

from app import metrics
from app.connection import refusal, reset

log = logging.getLogger("app.websocket")
log.setLevel(logging.WARNING)  # below it are whole addresses, in which somebody may put a key; app.door says the rest

NO_HANDSHAKE = "a WebSocket's handshake has at most 128 headers of 8,190 bytes, an address as long, and no body"
PIECE_BYTES = 8192  # of what was read, taken at a time: frames of 6 bytes, the least, take some 10 ms then
MANY_FRAMES = 64  # in a piece: the others of the event loop have their turn before the next
MOST_FRAGMENTS = 10_000  # of a message; a client that cuts into pieces of 1 KB sends the largest in half of them


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """Resets a connection that the application has done with but the client does not read; takes crumbs in turns."""

    grace_s = 10.0  # to take the last bytes and answer the close
    _reset_timer: asyncio.TimerHandle | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.logger = self.conn.logger = log
        self._pieces: deque[bytes] = deque()
        self._frames_taken = 0  # of the last piece
        self._deaf = False  # what still comes is not listened to

    async def run_asgi(self) -> None:
        await super().run_asgi()
        if not self.writable.is_set():  # the client is far behind already
            self._reset()
        elif not self.disconnected:
            self._reset_timer = self.loop.call_later(self.grace_s, self._reset)

    async def send(self, message: Any) -> None:
        await super().send(message)
        if self.close_sent:  # refused by an HTTP answer, too, which uvicorn takes for none
            self.handshake_complete = True

    def connection_lost(self, exc: Exception | None) -> None:
        self._pieces.clear()
        if self._reset_timer is not None:
            self._reset_timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        others_wait = bool(self._pieces)
        self._pieces.extend(data[start : start + PIECE_BYTES] for start in range(0, len(data), PIECE_BYTES))
        if not others_wait:
            self._take_pieces()

    async def receive(self) -> Any:
        message = await super().receive()
        if self._pieces and not self.transport.is_closing():  # uvicorn reads on when the application has taken all
            self.transport.pause_reading()
        return message

    def _take_pieces(self) -> None:
        """Take what was read, until a piece had many frames: the next has its turn after the event loop's others."""
        while self._pieces:
            super().data_received(self._pieces[0])
            if self.disconnected or self._deaf or self.transport.is_closing():
                self._pieces.clear()
                break
            self._pieces.popleft()
            if self._frames_taken > MANY_FRAMES and self._pieces:
                self.transport.pause_reading()
                self.loop.call_soon(self._take_pieces)
                return
        if not (self.read_paused or self.transport.is_closing()):
            self.transport.resume_reading()

    def handle_events(self) -> None:
        self._frames_taken = len(self.conn.events)
        super().handle_events()
        if self.conn.handshake_exc is not None and not self.handshake_initiated:
            self._refuse_handshake()

    def handle_cont(self, event: Frame) -> None:
        if len(self.frames) < MOST_FRAGMENTS:
            super().handle_cont(event)
        elif not self.close_sent:
            self.conn.fail(1008, f"a message may come in {MOST_FRAGMENTS} fragments")
            self.handle_parser_exception()

    def handle_parser_exception(self) -> None:
        """Say what was wrong, and let the client finish: it closes when it has read that, or has `close_timeout`."""
        metrics.rejected.labels("protocol").inc()
        closed = self.conn.close_sent
        assert closed is not None
        self.queue.put_nowait({"type": "websocket.disconnect", "code": closed.code, "reason": closed.reason})
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = self._deaf = True
        if self.transport.can_write_eof():  # not through TLS
            self.transport.write_eof()
        self.close_timer = self.loop.call_later(self.close_timeout, self.transport.close)

    def handle_ping(self) -> None:
        """Nothing slows down who sends pings: with the buffer full they stay unanswered (RFC 6455, 5.5.3, lets us)."""
        if self.writable.is_set():
            super().handle_ping()
        else:
            self.conn.data_to_send()

    def _refuse_handshake(self) -> None:
        metrics.rejected.labels("protocol").inc()
        self.handshake_initiated = self.handshake_complete = self.close_sent = True
        self.transport.write(refusal(HTTPStatus.BAD_REQUEST, "Bad request", NO_HANDSHAKE))
        self.transport.close()

    def _reset(self) -> None:
        if not self.disconnected:
            reset(self.transport)
