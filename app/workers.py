"""The threads for the work on pictures: decoding, cutting, drawing."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from app.errors import Draining
from app.room import Room

P = ParamSpec("P")
R = TypeVar("R")

LABEL = "thread"  # beside the networks' names, in the metrics of what waits


class Workers:
    """`count` threads, and a queue of at most `max_waiting` jobs."""

    def __init__(self, count: int, *, max_waiting: int) -> None:
        self.count = count
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="picture")
        self._room = Room(count, max_waiting=max_waiting, label=LABEL)
        self._closed = False

    async def run(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """What `work` returns, done in a thread. Raises what it raises, Overloaded, or Draining once closed.

        Ends no sooner than the thread does, also where the caller is cancelled: what the thread holds is not free
        before. What has not begun by then never does.
        """
        if self._closed:
            raise Draining()
        async with self._room.take(1):
            if self._closed:
                raise Draining()
            return await _ended(self._pool.submit(work, *args, **kwargs))

    async def close(self) -> None:
        """Refuse new work and let what runs end."""
        self._closed = True
        await asyncio.to_thread(self._pool.shutdown)


async def _ended(job: Future[R]) -> R:
    """The job's result; CancelledError only when it has ended, too."""
    future, cancelled = asyncio.wrap_future(job), False
    while not future.done():
        try:
            await asyncio.wait([future])  # leaves it alone when cancelled
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        future.exception()  # nobody else looks at it
        raise asyncio.CancelledError
    return future.result()
