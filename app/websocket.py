"""uvicorn's WebSocket protocol, with an end to what a client may leave unread.

uvicorn closes a connection only when the client has taken every byte: one who stops reading would keep the socket and
its buffers for ever, long after the application has ended and stopped counting the stream.
"""

import asyncio
import socket
import struct

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

RESET_AT_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER, on and 0 s: the kernel drops its own buffer, too


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """Resets a connection that the application has done with but the client does not read."""

    grace_s = 10.0  # to take the last bytes and answer the close
    _reset_timer: asyncio.TimerHandle | None = None

    async def run_asgi(self) -> None:
        await super().run_asgi()
        if not self.writable.is_set():  # the client is far behind already
            self._reset()
        elif not self.disconnected:
            self._reset_timer = self.loop.call_later(self.grace_s, self._reset)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._reset_timer is not None:
            self._reset_timer.cancel()
        super().connection_lost(exc)

    def handle_ping(self) -> None:
        """Nothing slows down who sends pings: with the buffer full they stay unanswered (RFC 6455, 5.5.3, lets us)."""
        if self.writable.is_set():
            super().handle_ping()
        else:
            self.conn.data_to_send()

    def _reset(self) -> None:
        if not self.disconnected:
            connection = self.transport.get_extra_info("socket")
            if connection is not None:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
            self.transport.abort()
