"""How many decoded pictures are held at a time."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app import metrics
from app.errors import Overloaded

LABEL = "place"  # beside the networks' names, in the metrics of what waits


class Places:
    """So many places for decoded pictures: each may be a thousand times its bytes, and a rush would fill the memory."""

    def __init__(self, count: int, max_waiting: int) -> None:
        self._free = asyncio.Semaphore(count)
        self._max_waiting = max_waiting
        self._waiting = 0

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """A place, once there is one. Raises Overloaded where `max_waiting` wait for theirs."""
        if self._waiting >= self._max_waiting:
            raise Overloaded()
        began = time.perf_counter()
        self._wait(1)
        try:
            await self._free.acquire()
        finally:
            self._wait(-1)
        metrics.queue_seconds.labels(LABEL).observe(time.perf_counter() - began)
        try:
            yield
        finally:
            self._free.release()

    def _wait(self, more: int) -> None:
        self._waiting += more
        metrics.queue_depth.labels(LABEL).set(self._waiting)
