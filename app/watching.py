"""A client of /stream: what cameras and video files show goes to a service, its answers come back as they are.

    camera --newest frame--> _send --WebSocket--> service --answers--> _receive --> say

Few frames are under way at a time, so that a slow network or service makes answers rarer, not older.
"""

import asyncio
import itertools
import logging
import random
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import urlsplit, urlunsplit

import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI

from app.camera import Camera, Shot

log = logging.getLogger("app.watching")

RETRY_S = 3.0  # between two tries to reach the service, at least; at most twice that, so that not all come at once
UNDER_WAY = 2  # frames of a camera that are not answered yet: one is worked on while one travels
FATAL = (1002, 1003, 1007, 1008, 1009)  # close codes after which another try would end likewise


@dataclass(frozen=True)
class Service:
    """Whom to ask: its address, an API key or "", and the stream's options as JSON or ""."""

    url: str
    key: str = ""
    options: str = ""

    def stream_url(self) -> str:
        """The address of /stream for http(s)://host or ws(s)://host, with or without it. Raises ValueError."""
        parts = urlsplit(self.url)
        scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
        if scheme not in ("ws", "wss") or not parts.hostname:
            raise ValueError(f"the service's address is like http://localhost:8000, got {self.url!r}")
        path = parts.path.rstrip("/").removesuffix("/stream") + "/stream"
        return urlunsplit((scheme, parts.netloc, path, parts.query, ""))


async def watch(cameras: Sequence[Camera], service: Service, say: Callable[[dict[str, Any]], None]) -> None:
    """Hand every answer to `say` until all are at their end; cameras never are.

    An answer is the service's ({"frame", "people", ...} or {"error", "frame"}), with "source", "time_s" of the frame
    (Shot), and "connection": from one to the next, frames and people are numbered anew. Raises ValueError where the
    service will not have this client or its options, or a file is no video.
    """
    try:
        await asyncio.gather(*(_Watcher(camera, service, say).run() for camera in cameras))
    finally:
        for camera in cameras:
            camera.close()


def _pauses_s() -> Generator[float]:
    while True:
        yield random.uniform(RETRY_S, 2 * RETRY_S)


class _Watcher:
    """One camera's stream."""

    def __init__(self, camera: Camera, service: Service, say: Callable[[dict[str, Any]], None]) -> None:
        self._camera = camera
        self._service = service
        self._say = say
        self._connection = 0
        self._under_way: dict[int, Shot] = {}
        self._answered = asyncio.Event()

    async def run(self) -> None:
        """Until the file's last frame is answered, over as many connections as it takes."""
        url, key = self._service.stream_url(), self._service.key
        headers = {"X-API-Key": key} if key else {}
        try:
            async for connection in connect(
                url, additional_headers=headers, compression=None, max_size=None, reconnect_delays=_pauses_s
            ):
                try:
                    return await self._exchange(connection)
                except ConnectionClosed as closed:
                    self._judge(closed)
                finally:
                    await connection.close()
                self._connection += 1
                await asyncio.sleep(next(_pauses_s()))
        except (InvalidHandshake, InvalidURI) as error:
            raise ValueError(f"{url}: {error}") from None

    def _judge(self, closed: ConnectionClosed) -> None:
        """Raises ValueError where there is no sense in another try."""
        code, reason = (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else (1006, "the connection was lost")
        if code in FATAL:
            raise ValueError(f"{self._service.url}: the service closed the stream with {code}: {reason}")
        log.warning("%s: the stream was closed (%d: %s); connecting again", self._camera.name, code, reason)

    async def _exchange(self, connection: ClientConnection) -> None:
        """One connection, until the file's last frame is answered. Raises ConnectionClosed."""
        tasks = [asyncio.create_task(part(connection)) for part in (self._send, self._receive)]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()

    async def _send(self, connection: ClientConnection) -> None:
        if self._service.options:
            await connection.send(self._service.options)
        lost = list(self._under_way.values()) if self._camera.is_file else []
        self._under_way.clear()
        most = 1 if self._camera.is_file else UNDER_WAY  # the service never drops the only one
        for number in itertools.count():
            shot = lost.pop(0) if lost else await self._camera.next()
            if shot is None:
                return
            self._under_way[number] = shot
            await connection.send(shot.jpeg)
            while len(self._under_way) >= most:
                self._answered.clear()
                await self._answered.wait()

    async def _receive(self, connection: ClientConnection) -> NoReturn:
        while True:
            answer = orjson.loads(await connection.recv())
            if answer["frame"] is None:
                raise ValueError(f"--options: {answer['error']['detail']}")
            shot = self._under_way[answer["frame"]]
            # Those before it were dropped, and will not be answered.
            self._under_way = {number: kept for number, kept in self._under_way.items() if number > answer["frame"]}
            self._answered.set()
            about = {"source": self._camera.name, "connection": self._connection, "time_s": round(shot.time_s, 3)}
            self._say(about | answer)
