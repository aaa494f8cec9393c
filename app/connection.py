"""uvicorn's HTTP protocol, with an end to connections whose request never comes.

uvicorn waits for ever for the first byte of a connection, for the end of a request's headers and, where something came
after an answer that begins no request, for that request: some thousand such connections would use up the process's file
descriptors, and nobody else could come in. It takes a header of any length, too, and its parser copies what it has of
one with each piece that comes: one connection would keep the event loop from everybody else. Bodies have a time and a
size of their own (POSE_BODY_TIMEOUT_S, POSE_MAX_BODY_BYTES), and so have connections that wait in silence for another
request.
"""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

TOO_LONG = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Type: application/problem+json\r\n"
    b"Content-Length: %d\r\nConnection: close\r\n\r\n%s"
)
PROBLEM = (
    b'{"type":"about:blank","title":"Header too long","status":431,"detail":"address and headers may have %d bytes"}'
)


class HttpProtocol(HttpToolsProtocol):
    """Drops a connection that has not sent all headers of a request in `headers_timeout_s`, or `max_header_bytes`.

    What a read holds beside headers is not counted: so the limit is passed by a read (256 KiB) at most.
    """

    headers_timeout_s = 30.0
    max_header_bytes = 65536
    _headers_timer: asyncio.TimerHandle | None = None
    _fruitless_bytes = 0  # which brought no request, no body and no end of one
    _fruitful = False

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self._cycles: list[RequestResponseCycle] = []  # requests that are not answered yet

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_headers()

    def data_received(self, data: bytes) -> None:
        self._fruitful = False
        super().data_received(data)
        self._fruitless_bytes = 0 if self._fruitful else self._fruitless_bytes + len(data)
        if self._fruitless_bytes > self.max_header_bytes:
            self._refuse_headers()
        elif self._idles():
            self._expect_headers()

    def on_message_begin(self) -> None:
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

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
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
            problem = PROBLEM % self.max_header_bytes
            self.transport.write(TOO_LONG % (len(problem), problem))
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
