"""uvicorn's HTTP protocol, with an end to connections whose request never comes.

uvicorn waits for ever for the first byte of a connection, for the end of a request's headers and, where something came
after an answer that begins no request, for that request: some thousand such connections would use up the process's file
descriptors, and nobody else could come in. Bodies have a time of their own (POSE_BODY_TIMEOUT_S), and so have
connections that wait in silence for another request.
"""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class HttpProtocol(HttpToolsProtocol):
    """Drops a connection that has not sent all headers of a request in `headers_timeout_s`."""

    headers_timeout_s = 30.0
    _headers_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_headers()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._idles():
            self._expect_headers()

    def on_message_begin(self) -> None:
        self._expect_headers()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._stop_timer()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def _idles(self) -> bool:
        """Whether all is answered and no timer runs: what came, as the rest of a refused body, ended uvicorn's own."""
        answered = self.cycle is not None and self.cycle.response_complete
        timed = self._headers_timer is not None or self.timeout_keep_alive_task is not None
        upgraded = self.transport.get_protocol() is not self
        return answered and not timed and not upgraded and not self.transport.is_closing()

    def _expect_headers(self) -> None:
        self._stop_timer()
        self._headers_timer = self.loop.call_later(self.headers_timeout_s, self.transport.abort)

    def _stop_timer(self) -> None:
        if self._headers_timer is not None:
            self._headers_timer.cancel()
            self._headers_timer = None
