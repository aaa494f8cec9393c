"""A real server on a real port, and pictures of bright "people" for the tiny networks."""

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import cv2
import httpx
import numpy as np
import uvicorn
from numpy.typing import NDArray

from app.main import create_app
from app.pipeline import Pipeline
from app.server import configured
from app.settings import Settings

T = TypeVar("T")


@dataclass(frozen=True)
class Server:
    """A running service: its address, its application, and a client for it."""

    url: str
    app: Any
    client: httpx.Client

    def metric(self, name: str, **labels: str) -> float:
        """The value of one sample of /metrics; 0 when it was never counted."""
        wanted = {f'{key}="{value}"' for key, value in labels.items()}
        for line in self.client.get("/metrics").text.splitlines():
            sample, _, value = line.rpartition(" ")
            if sample.partition("{")[0] == name and wanted <= set(sample.partition("{")[2].rstrip("}").split(",")):
                return float(value)
        return 0.0


def free_port() -> int:
    """A port of this machine on which nobody listens, for a process that must be told one."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


@contextmanager
def running(settings: Settings, port: int = 0, host: str = "127.0.0.1") -> Iterator[Server]:
    """The service on this port (0: a free one), in a thread, until the block ends."""
    app = create_app(settings)
    config = configured(app, settings.model_copy(update={"host": host, "port": port}))
    server = uvicorn.Server(config)
    listening = config.bind_socket()
    listening.listen()  # so that a first request finds a queue even before the server takes it over
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    while not server.started and thread.is_alive():
        thread.join(0.005)
    assert server.started, "the service did not start"
    url = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"
    try:
        with httpx.Client(base_url=url, timeout=30) as client:
            yield Server(url, app, client)
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


def picture(width: int = 120, height: int = 90, boxes: tuple[tuple[int, int, int, int], ...] = ()) -> NDArray[np.uint8]:
    """A dark picture (height, width, 3) with a white rectangle, a tiny network's idea of a person, for each box."""
    image = np.full((height, width, 3), 30, np.uint8)
    for x1, y1, x2, y2 in boxes:
        image[y1:y2, x1:x2] = 255
    return image


def encoded(image: NDArray[np.uint8], extension: str = ".png") -> bytes:
    """`image` as a PNG, JPEG or WebP file."""
    ok, data = cv2.imencode(extension, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    assert ok
    return data.tobytes()


def with_pipeline(models: dict[str, Path], use: Callable[[Pipeline], Awaitable[T]]) -> T:
    """What `use` makes of a warmed pipeline."""

    async def run() -> T:
        pipeline = Pipeline(Settings(provider="cpu", **models))  # type: ignore[arg-type]
        await pipeline.warm()
        try:
            return await use(pipeline)
        finally:
            await pipeline.close()

    return asyncio.run(run())
