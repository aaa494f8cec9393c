"""Cameras and films to watch, and services that watch them."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from commandline import okdhp
from serving import encoded
from websockets.sync.server import serve as serve_sockets

from app.camera import Camera
from app.watching import Service, watch

FPS = 10


def answers(*arguments: object) -> list[dict[str, Any]]:
    """What `okdhp watch` prints."""
    return [json.loads(line) for line in okdhp("watch", *arguments).splitlines() if line.startswith("{")]


def watched(source: str, service: Service, enough: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
    """The answers to a camera's frames until there are enough of them."""
    said: list[dict[str, Any]] = []

    async def run() -> None:
        done = asyncio.Event()

        def say(answer: dict[str, Any]) -> None:
            said.append(answer)
            if enough(said):
                done.set()

        watching = asyncio.create_task(watch([Camera(source, max_fps=100, max_side=1000)], service, say))
        async with asyncio.timeout(20):
            await asyncio.wait([watching, asyncio.create_task(done.wait())], return_when=asyncio.FIRST_COMPLETED)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)

    asyncio.run(run())
    return said


@contextmanager
def listening(speak: Callable[[Any], None], **options: Any) -> Iterator[str]:
    """The address of a service that speaks so with whoever connects; options are those of websockets."""
    with serve_sockets(speak, "127.0.0.1", 0, **options) as service:
        thread = threading.Thread(target=service.serve_forever)
        thread.start()
        yield f"ws://127.0.0.1:{service.socket.getsockname()[1]}/stream"
    thread.join()


class MotionJpeg:
    """A network camera: a picture every 10 ms, as bright as its number, in one endless answer after another."""

    def __init__(self, pictures_an_answer: int) -> None:
        self.shown = 0
        camera = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=next")
                self.end_headers()
                for _ in range(pictures_an_answer):
                    data = encoded(np.full((60, 80, 3), min(camera.shown, 255), np.uint8), ".jpg")
                    head = f"--next\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                    try:
                        self.wfile.write(head.encode() + data + b"\r\n")
                    except OSError:  # nobody looks any more
                        return
                    camera.shown += 1
                    threading.Event().wait(0.01)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://somebody:secret@127.0.0.1:{self._server.server_port}/video.mjpg"

    @contextmanager
    def on(self) -> Iterator["MotionJpeg"]:
        thread = threading.Thread(target=self._server.serve_forever)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()
