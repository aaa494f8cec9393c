"""A camera, a network stream or a video file, read as it comes: the newest frame, as a JPEG file.

    thread: open, grab, grab, ... --one slot--> Camera.next() on the event loop

A frame of a camera that nobody took gives way to the next one; a file waits, and gives every frame.
"""

import asyncio
import logging
import re
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import cv2
from cv2.typing import MatLike

log = logging.getLogger("app.camera")

RETRY_S = 3.0  # between two tries to open a camera
SLACK = 0.1  # of the time between two frames, by which one may come early
TIMEOUT_MS = 10_000  # to open a camera, and for its next frame
JPEG_QUALITY = 80
# Cameras and services take passwords before the host, in a query (?pwd=...) and in the path (/user=admin&password=...).
USER = re.compile(r"(?<=://)[^/]*@")
VALUE = re.compile(r"([\w.-]+)=[^&;#]*")
HARMLESS = {"channel", "ch", "cam", "camera", "stream", "subtype", "profile", "id", "resolution", "fps", "unicast"}


def without_secrets(address: str) -> str:
    """An address for logs and answers: no user, and of its values only those that tell one camera from another."""
    return VALUE.sub(lambda pair: pair[0] if pair[1].lower() in HARMLESS else f"{pair[1]}=***", USER.sub("", address))


@dataclass(frozen=True)
class Shot:
    """One frame: when it was seen, in seconds (of a file since its start, else since 1970), and its JPEG file."""

    time_s: float
    jpeg: bytes


class Camera:
    """Reads `source`: an address (rtsp://, http://, ...), the number of a device, or a video file.

    At most `max_fps` frames a second, none with more than `max_side` pixels a side. A file is read as fast as it was
    recorded and no faster; a camera that is gone is tried again, for ever. Raises FileNotFoundError.
    """

    def __init__(self, source: str, *, max_fps: float, max_side: int) -> None:
        self._source = source
        self.is_file = "://" not in source and not source.isdecimal()
        self.name = source if self.is_file else without_secrets(source)
        if self.is_file and not Path(source).is_file():
            raise FileNotFoundError(f"{source}: no such file; a camera is an address (rtsp://...) or a number")
        self._interval_s = 1 / max_fps
        self._max_side = max_side
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._shot: Shot | None = None
        self._end: Exception | None = None  # why there is no next frame
        self._taken = threading.Event()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True, name=f"camera {self.name}")

    async def next(self) -> Shot | None:
        """The newest frame, as soon as there is one; None after a file's last. Raises ValueError for no video."""
        if self._thread.ident is None:
            self._thread.start()
        while self._shot is None and self._end is None:
            self._changed.clear()
            await self._changed.wait()
        shot, self._shot = self._shot, None
        self._taken.set()
        if shot is None and not isinstance(self._end, EOFError):
            assert self._end is not None
            raise self._end
        return shot

    def close(self) -> None:
        """Let the thread end, after the frame that it waits for."""
        self._closed.set()
        self._taken.set()

    @property
    def reading(self) -> bool:
        """Whether the thread has not ended yet."""
        return self._thread.is_alive()

    def _read(self) -> None:
        try:
            while not self._closed.is_set():
                self._read_once()
                if self.is_file:
                    raise EOFError
                if not self._closed.is_set():
                    log.warning("%s: no picture; trying again in %g s", self.name, RETRY_S)
                    self._closed.wait(RETRY_S)
        except Exception as error:
            self._tell(error)

    def _read_once(self) -> None:
        """From opening the source until it gives no more. Raises ValueError for a file that is no video."""
        capture = self._opened()
        try:
            if self.is_file and not capture.isOpened():
                raise ValueError(f"{self.name}: not a video that can be read")
            began_s, due_s, shown = time.monotonic(), 0.0, False
            while not self._closed.is_set() and capture.grab():
                at_s = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000 if self.is_file else time.monotonic() - began_s
                if at_s < due_s - SLACK * self._interval_s:
                    continue
                due_s = max(due_s + self._interval_s, at_s)
                if self.is_file:
                    self._closed.wait(began_s + at_s - time.monotonic())
                shown = self._put(capture, at_s) or shown
            if self.is_file and not shown and not self._closed.is_set():
                raise ValueError(f"{self.name}: no picture of this video can be read")
        finally:
            capture.release()

    def _opened(self) -> cv2.VideoCapture:
        if self._source.isdecimal():
            return cv2.VideoCapture(int(self._source))
        timeouts = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, TIMEOUT_MS]
        return cv2.VideoCapture(self._source, cv2.CAP_FFMPEG, timeouts)

    def _put(self, capture: cv2.VideoCapture, at_s: float) -> bool:
        """Offer the frame that was grabbed; a file's, and wait until it is taken. False where it cannot be decoded."""
        time_s = at_s if self.is_file else time.time()
        read, image = capture.retrieve()
        if not read:
            return False
        shot = Shot(time_s, self._encoded(image))
        self._taken.clear()
        self._tell(shot)
        if self.is_file and not self._closed.is_set():
            self._taken.wait()
        return True

    def _encoded(self, image: MatLike) -> bytes:
        scale = self._max_side / max(image.shape[:2])
        if scale < 1:
            height, width = (max(1, round(side * scale)) for side in image.shape[:2])
            image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        return data.tobytes()

    def _tell(self, news: Shot | Exception) -> None:
        """Hand a frame, or why there is none, from the thread to the event loop."""
        with suppress(RuntimeError):  # the loop is closed: nobody is interested any more
            self._loop.call_soon_threadsafe(self._hear, news)

    def _hear(self, news: Shot | Exception) -> None:
        if isinstance(news, Shot):
            self._shot = news
        else:
            self._end = news
        self._changed.set()
