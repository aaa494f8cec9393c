"""The process that serves: uvicorn with our settings, and an end that a load balancer can follow."""

import logging
import signal
import sys
import threading
import time
from types import FrameType

import uvicorn
from fastapi import FastAPI

from app.connection import HttpProtocol
from app.main import create_app
from app.pipeline import Pipeline
from app.settings import Settings
from app.websocket import WebSocketProtocol

log = logging.getLogger("app.server")

FAILED_TO_START = 3  # the exit status that uvicorn's own command has for it


class Server(uvicorn.Server):
    """Refuses new work for `drain_s` after SIGTERM, and only then closes its doors.

    uvicorn closes them at once: whoever has not yet heard of the end would find no one there. Meanwhile /readyz says
    503, so that a load balancer sends nobody any more. A second SIGTERM, or SIGINT, ends at once.
    """

    def __init__(self, config: uvicorn.Config, drain_s: float) -> None:
        super().__init__(config)
        self._drain_s = drain_s

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        pipeline: Pipeline | None = getattr(self.config.app.state, "pipeline", None)  # type: ignore[union-attr]
        if sig != signal.SIGTERM or pipeline is None or pipeline.draining or self._drain_s == 0:
            super().handle_exit(sig, frame)
            return
        pipeline.drain()
        threading.Thread(target=self._end_drained, args=(sig, frame), daemon=True).start()

    def _end_drained(self, sig: int, frame: FrameType | None) -> None:
        """Say what has begun (not in the signal's handler: another log line may be half written there), wait, end."""
        log.info(
            "draining: new work is refused until the doors close", extra={"signal": "SIGTERM", "drain_s": self._drain_s}
        )
        time.sleep(self._drain_s)
        super().handle_exit(sig, frame)


def configured(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """How uvicorn serves `app`."""
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        forwarded_allow_ips=list(settings.trusted_proxies),
        log_config=None,  # its lines go where ours go
        access_log=False,  # our own log line has the request's id and its time
        http=HttpProtocol,
        ws=WebSocketProtocol,
        ws_max_size=settings.stream_max_message_bytes,
        ws_per_message_deflate=False,  # pictures are compressed already
        timeout_keep_alive=75,  # proxies keep connections for 60 s and would send on one that we are about to close
        timeout_graceful_shutdown=30,
    )


def serve(settings: Settings) -> None:
    """Serve until a signal ends it. Exits with FAILED_TO_START where the networks cannot be loaded."""
    server = Server(configured(create_app(settings), settings), settings.drain_s)
    try:
        server.run()
    except KeyboardInterrupt:  # uvicorn raises the signal again once it has ended
        pass
    if not server.started:
        sys.exit(FAILED_TO_START)
