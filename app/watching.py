"""A client of /stream: what cameras and video files show goes to a service, its answers come back as they are.

    camera --newest frame--> _send --WebSocket--> service --answers--> _receive --> say

Few frames are under way at a time, so that a slow network or service makes answers rarer, not older.
"""

import asyncio
import itertools
import logging
import random
import ssl
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import urlsplit, urlunsplit

import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.client import process_exception
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from app.camera import Camera, Shot, without_secrets

log = logging.getLogger("app.watching")
logging.getLogger("websockets.client").setLevel(logging.WARNING)  # it names neither camera nor service; we do

RETRY_S = 3.0  # between two tries to reach the service, at least; at most twice that, so that not all come at once
UNDER_WAY = 2  # frames of a camera that are not answered yet: one is worked on while one travels
FATAL = (1002, 1003, 1007, 1008)  # close codes after which another try would end likewise
TOO_BIG, TIME_IS_UP = 1009, 1001  # after these it makes sense
BUSY = (408, 429)  # HTTP answers after which it does, too, beside those of broken servers
JOIN_S = 1.0  # to let the cameras' threads end


@dataclass(frozen=True)
class Service:
    """Whom to ask: its address, an API key or "", and the stream's options as JSON or ""."""

    url: str
    key: str = ""
    options: str = ""

    @property
    def name(self) -> str:
        """The address for logs."""
        return without_secrets(self.url)

    def stream_url(self) -> str:
        """The address of /stream for http(s)://host or ws(s)://host, with or without it. Raises ValueError."""
        parts = urlsplit(self.url)
        scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
        if scheme not in ("ws", "wss") or not parts.hostname:
            raise ValueError(f"the service's address is like http://localhost:8000, got {self.name!r}")
        path = parts.path.rstrip("/").removesuffix("/stream") + "/stream"
        return urlunsplit((scheme, parts.netloc, path, parts.query, ""))

    def headers(self) -> dict[str, str]:
        """The API key, as UTF-8. Raises ValueError where no header can hold it."""
        if not self.key.isprintable():
            raise ValueError("the API key has a line break or another character that is not printed")
        return {"X-API-Key": self.key.encode().decode("latin-1")} if self.key else {}


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
        until_s = time.monotonic() + JOIN_S
        while any(camera.reading for camera in cameras) and time.monotonic() < until_s:
            await asyncio.sleep(0.01)


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
        self._heard = False  # any answer on this connection

    async def run(self) -> None:
        """Until the file's last frame is answered, over as many connections as it takes."""
        url, headers = self._service.stream_url(), self._service.headers()
        options: dict[str, Any] = {"compression": None, "max_size": None, "reconnect_delays": _pauses_s}
        try:
            async for connection in connect(
                url, additional_headers=headers, process_exception=self._not_connected, **options
            ):
                self._heard = False
                try:
                    return await self._exchange(connection)
                except ConnectionClosed as closed:
                    code = self._judge(closed)
                finally:
                    await connection.close()
                self._connection += 1
                if code != TIME_IS_UP or not self._heard:
                    await asyncio.sleep(next(_pauses_s()))
        except (InvalidHandshake, InvalidURI) as error:
            raise ValueError(f"{without_secrets(url)}: {error}") from None

    def _not_connected(self, error: Exception) -> Exception | None:
        """None where another try makes sense, and why there will be one is said; else what ends it."""
        if isinstance(error, ssl.SSLCertVerificationError):
            how = "a certificate of one's own is trusted by SSL_CERT_FILE"
            return ValueError(f"{self._service.name}: {error.verify_message}; {how}")
        busy = isinstance(error, InvalidStatus) and error.response.status_code in BUSY
        if not busy and process_exception(error) is not None:
            return error
        log.warning("%s: %s does not answer (%s); trying again", self._camera.name, self._service.name, error)
        return None

    def _judge(self, closed: ConnectionClosed) -> int:
        """The code with which the stream was closed. Raises ValueError where there is no sense in another try."""
        code, reason = (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else (1006, "the connection was lost")
        if code in FATAL:
            raise ValueError(f"{self._service.name}: the service closed the stream with {code}: {reason}")
        if code == TOO_BIG:
            self._under_way.clear()  # whose frame will not be taken the next time either
            reason += "; --max-side makes frames smaller"
        log.warning("%s: the stream was closed (%d: %s); connecting again", self._camera.name, code, reason)
        return code

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
            self._heard = True
            if answer["frame"] is None:
                raise ValueError(f"--options: {answer['error']['detail']}")
            shot = self._under_way[answer["frame"]]
            # Those before it were dropped, and will not be answered.
            self._under_way = {number: kept for number, kept in self._under_way.items() if number > answer["frame"]}
            self._answered.set()
            about = {"source": self._camera.name, "connection": self._connection, "time_s": round(shot.time_s, 3)}
            self._say(about | answer)
