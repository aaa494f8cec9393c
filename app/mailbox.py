"""A stream's frames between its reader and its networks: one slot, in which the newest wins."""

import asyncio
from dataclasses import dataclass, field, replace

from app import metrics
from app.schemas import StreamOptions


@dataclass(frozen=True)
class Frame:
    """One binary message: its number from 0, its bytes, when it came (perf_counter; uvloop's clock is coarse), and the
    options that were set by then."""

    number: int
    data: bytes
    received_s: float
    options: StreamOptions


@dataclass
class Mailbox:
    """Holds the newest frame until it is taken; counts those that were never taken.

    Where a dropped frame was to go through the detector, the one in its place does.
    """

    dropped: int = 0
    _frame: Frame | None = None
    _filled: asyncio.Event = field(default_factory=asyncio.Event)

    def put(self, frame: Frame) -> None:
        if self._frame is not None:
            self.dropped += 1
            metrics.stream_frames.labels("dropped").inc()
            detect = frame.options.detect or self._frame.options.detect
            frame = replace(frame, options=frame.options.model_copy(update={"detect": detect}))
        self._frame = frame
        self._filled.set()

    @property
    def empty(self) -> bool:
        return self._frame is None

    async def take(self) -> Frame:
        await self._filled.wait()
        frame, self._frame = self._frame, None
        self._filled.clear()
        assert frame is not None
        return frame
