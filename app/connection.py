"""uvicorn's HTTP protocol, with an end to connections whose request never comes.

uvicorn waits for ever for the first byte of a connection and for the end of a request's headers: some thousand silent
connections would use up the process's file descriptors, and nobody else could come in. Bodies have a time of their own
(POSE_BODY_TIMEOUT_S), and so have connections that wait for another request.
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

    def on_message_begin(self) -> None:
        self._expect_headers()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._stop_timer()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def _expect_headers(self) -> None:
        self._stop_timer()
        self._headers_timer = self.loop.call_later(self.headers_timeout_s, self.transport.abort)

    def _stop_timer(self) -> None:
        if self._headers_timer is not None:
            self._headers_timer.cancel()
