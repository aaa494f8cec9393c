"""Room for so much at a time, first come first served of each kind; who would wait in vain is told so at once.

How long a stay lasts tells how fast the line moves (Little's law): what fills the room has left it after the time of
one stay, and so has each roomful that waits.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from app import metrics
from app.errors import Overloaded
from app.turns import Turns

LATE = "more is waiting than can be answered in time"
LONGEST_RETRY_S = 60


@dataclass(eq=False)
class _Guest:
    """One who waits for `size` of the room, and has no use for it at `deadline` (loop time; None: never)."""

    size: int
    deadline: float | None
    let_in: "asyncio.Future[None]"


class Room:
    """Room for `size` of anything: pictures, pixels, inputs of a network.

    Who finds it without a line comes in, however slow others were: so what is known of their stays is never stale.
    `label` names the room in the metrics of what waits.
    """

    def __init__(self, size: int, *, max_waiting: int, label: str) -> None:
        self._size = size
        self._free = size
        self._max_waiting = max_waiting
        self._label = label
        self._line = Turns[_Guest]()
        self._stay_s = 0.0  # the mean of about the last roomful; none yet: nobody is refused for being late

    @property
    def free(self) -> int:
        """What is left of the room."""
        return self._free

    @asynccontextmanager
    async def take(self, size: int, deadline: float | None = None) -> AsyncIterator[None]:
        """So much of the room while the block runs, once there is so much; all of it for what is larger.

        Raises Overloaded where `max_waiting` of its kind (`Turns`) wait already, and as soon as an answer by `deadline`
        (loop time) is not to be expected any more.
        """
        size, began = min(size, self._size), time.perf_counter()
        await self._enter(size, deadline)
        entered = time.perf_counter()
        metrics.queue_seconds.labels(self._label).observe(entered - began)
        try:
            yield
        finally:
            self._stay_s += (time.perf_counter() - entered - self._stay_s) * size / self._size
            self._free += size
            self._advance()

    async def _enter(self, size: int, deadline: float | None) -> None:
        if not self._line and size <= self._free:
            self._free -= size
            return
        if self._line.own >= self._max_waiting:
            raise Overloaded()
        guest = _Guest(size, deadline, asyncio.get_running_loop().create_future())
        self._line.append(guest)
        self._note_depth(1)
        try:
            self._advance()
            await guest.let_in
        except asyncio.CancelledError:
            if not guest.let_in.cancelled() and guest.let_in.exception() is None:  # let in at the last moment
                self._free += size
            self._advance()  # it may have stood before others who fit
            raise
        finally:
            self._note_depth(-1)

    def _advance(self) -> None:
        """Turn away those of the line whose stay would end after their deadline, and let in who fits."""
        now, before = asyncio.get_running_loop().time(), -self._free  # what must leave before a guest's stay begins
        for guest in self._line:
            if guest.let_in.done():  # cancelled
                continue
            ends = now + self._stay_s * (1 + (before + guest.size) / self._size)
            if guest.deadline is None or ends <= guest.deadline:
                before += guest.size
            else:
                retry_after_s = min(max(math.ceil(ends - guest.deadline), 1), LONGEST_RETRY_S)
                guest.let_in.set_exception(Overloaded(LATE, retry_after_s=retry_after_s))
        self._line.keep(lambda guest: not guest.let_in.done())
        while self._line and next(iter(self._line)).size <= self._free:
            guest = self._line.popleft()
            self._free -= guest.size
            guest.let_in.set_result(None)

    def _note_depth(self, more: int) -> None:
        metrics.queue_depth.labels(self._label).inc(more)  # two rooms may share a label
