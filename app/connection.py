"""uvicorn's HTTP protocol, with an end to connections whose request never comes, or whose answer is never taken.

uvicorn waits for ever for the first byte of a connection, for the end of a request's headers and, where something came
after an answer that begins no request, for that request: some thousand such connections would use up the process's file
descriptors, and nobody else could come in. It takes a header of any length, too, and its parser copies what it has of
one with each piece that comes: one connection would keep the event loop from everybody else. So would the ten thousand
requests that a read may hold, and as many more with each answer. And it keeps an answer until the client has taken it,
who may never do so: a megabyte of a picture may become thirty of a drawn one. Bodies have a time and a size of their
own (POSE_BODY_TIMEOUT_S, POSE_MAX_BODY_BYTES), and so have connections that wait in silence for another request.
"""

import asyncio
import socket
import struct
from http import HTTPStatus

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

RESET_AT_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER, on and 0 s: the kernel drops its own buffer, too


def reset(transport: asyncio.Transport) -> None:
    """End the connection of a client who does not read."""
    connection = transport.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
    transport.abort()


def refusal(status: HTTPStatus, title: str, detail: str) -> bytes:
    """A whole answer (RFC 9457) to what never gets to the application; the connection is to be closed after it."""
    told = {"title": title, "status": status, "detail": detail, "reason": "protocol"}
    body = orjson.dumps({"type": "about:blank", **told})
    head = f"HTTP/1.1 {status} {status.phrase}\r\nContent-Type: application/problem+json\r\n"
    return f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body


class EnoughRequests(Exception):
    """Raised to the parser, so that it stops."""


class HttpProtocol(HttpToolsProtocol):
    """Drops a connection that has not sent all headers of a request in `headers_timeout_s`, or `max_header_bytes`.

    What a read holds beside headers is not counted: so the limit is passed by a read (256 KiB) at most. And one that
    has taken less than `least_taken_bytes` of what waits for it in `taking_timeout_s`. Of requests that wait for the
    answers to earlier ones it takes `most_pipelined`; the last answer says that the connection closes.
    """

    headers_timeout_s = 30.0
    max_header_bytes = 65536
    taking_timeout_s = 120.0  # the kernel takes in lumps: of a slow client's perhaps one a minute
    least_taken_bytes = 65536
    most_pipelined = 100
    _headers_timer: asyncio.TimerHandle | None = None
    _taking_timer: asyncio.TimerHandle | None = None
    _deaf = False  # what still comes is not listened to
    _fruitless_bytes = 0  # which brought no request, no body and no end of one
    _fruitful = False

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self._cycles: list[RequestResponseCycle] = []  # requests that are not answered yet

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_headers()

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        self._fruitful = False
        super().data_received(data)
        if self._deaf:
            return
        self._fruitless_bytes = 0 if self._fruitful else self._fruitless_bytes + len(data)
        if self._fruitless_bytes > self.max_header_bytes:
            self._refuse_headers()
        elif self._idles():
            self._expect_headers()

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= self.most_pipelined:
            self.cycle.keep_alive, self._deaf = False, True
            raise EnoughRequests
        self._fruitful = True
        self._expect_headers()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._fruitful = True
        self._stop_timer()
        before = self.cycle
        super().on_headers_complete()
        if self.cycle is not before:
            self._cycles = [cycle for cycle in self._cycles if not cycle.response_complete] + [self.cycle]

    def on_body(self, body: bytes) -> None:
        self._fruitful = True
        super().on_body(body)

    def handle_websocket_upgrade(self) -> None:
        self._stop_taking_timer()  # app.websocket has its own
        super().handle_websocket_upgrade()

    def send_400_response(self, msg: str) -> None:
        """Of what is no HTTP, unless that would get into the middle of another answer, or before it."""
        if self._deaf or self.transport.is_closing():
            return
        if self.cycle is None or self._answered or not (self.cycle.response_started or self.pipeline):
            self.transport.write(refusal(HTTPStatus.BAD_REQUEST, "Bad request", "this is no valid HTTP/1.1"))
            self.transport.close()
        else:
            self.transport.abort()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._expect_taking()

    def resume_writing(self) -> None:
        self._stop_taking_timer()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._stop_taking_timer()
        super().connection_lost(exc)
        for cycle in self._cycles:  # uvicorn tells the last one alone
            cycle.disconnected = cycle.disconnected or not cycle.response_complete
            cycle.message_event.set()

    def _idles(self) -> bool:
        """Whether all is answered and no timer runs: what came, as the rest of a refused body, ended uvicorn's own."""
        timed = self._headers_timer is not None or self.timeout_keep_alive_task is not None
        upgraded = self.transport.get_protocol() is not self
        return self._answered and not timed and not upgraded and not self.transport.is_closing()

    @property
    def _answered(self) -> bool:
        return self.cycle is not None and self.cycle.response_complete

    def _refuse_headers(self) -> None:
        """Say so, unless that would get into the middle of another answer."""
        if self.transport.is_closing():
            return
        if self.cycle is None or self._answered:
            detail = f"address and headers may have {self.max_header_bytes} bytes"
            self.transport.write(refusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "Header too long", detail))
            self.transport.close()
        else:
            self.transport.abort()

    def _expect_headers(self) -> None:
        self._stop_timer()
        self._headers_timer = self.loop.call_later(self.headers_timeout_s, self.transport.abort)

    def _stop_timer(self) -> None:
        if self._headers_timer is not None:
            self._headers_timer.cancel()
            self._headers_timer = None

    def _expect_taking(self) -> None:
        self._stop_taking_timer()
        left = self.transport.get_write_buffer_size()
        self._taking_timer = self.loop.call_later(self.taking_timeout_s, self._check_taking, left)

    def _check_taking(self, before: int) -> None:
        if before - self.transport.get_write_buffer_size() < self.least_taken_bytes:
            reset(self.transport)
        else:
            self._expect_taking()

    def _stop_taking_timer(self) -> None:
        if self._taking_timer is not None:
            self._taking_timer.cancel()
            self._taking_timer = None
