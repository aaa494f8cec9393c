"""The dynamic batcher: items of many clients, one run of the network.

When it runs a batch: at once if the network is idle, so that a lone request never waits. While the network is busy,
items gather; when it comes back, it takes what is there, or waits for more until the batch is full or its oldest item
has waited `max_delay_ms`. On a CPU, where sixteen items take sixteen times as long as one, a full batch would keep
whoever comes next waiting for nothing: so a batch has as few items as it takes to end in `max_run_ms`.
"""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from app.errors import DeadlinePassed, Draining, ModelError, Overloaded, PoseError
from app.turns import Turns

Item = TypeVar("Item")
Result = TypeVar("Result")

SMOOTHING = 0.3  # of how long an item takes: some five runs tell


@dataclass(frozen=True)
class Answers(Generic[Result]):
    """Results in the order of the items; how long their runs took together, and how long none of them ran."""

    results: list[Result]
    queued_s: float
    ran_s: float


@dataclass(frozen=True)
class BatchReport:
    """What one run was like, for the metrics."""

    size: int
    queued_s: tuple[float, ...]
    ran_s: float
    error: PoseError | None  # its __cause__ is what the network said


@dataclass(frozen=True, eq=False)
class _Run:
    """When a run began and ended (perf_counter: uvloop's clock is coarse)."""

    began: float
    ended: float


@dataclass
class _Ticket(Generic[Item, Result]):
    item: Item
    deadline: float | None
    arrived: float
    future: "asyncio.Future[tuple[Result, _Run]]" = field(repr=False)


class Batcher(Generic[Item, Result]):
    """Collects items into batches of at most `max_batch` and runs them one batch at a time, off the event loop.

    `run` takes a list of items and returns as many results; it is called in a thread of the batcher's own. If it
    raises, every item of that batch gets the error and the next batch runs as if nothing had happened.
    `on_depth` is told how many items wait, `on_batch` what each run was like; both are called on the event loop.
    """

    def __init__(
        self,
        run: Callable[[list[Item]], Sequence[Result]],
        *,
        max_batch: int,
        max_delay_ms: float,
        max_waiting: int,
        max_run_ms: float = math.inf,
        on_depth: Callable[[int], object] = lambda depth: None,
        on_batch: Callable[[BatchReport], object] = lambda report: None,
    ) -> None:
        self._run = run
        self._max_batch = max_batch
        self._max_delay_s = max_delay_ms / 1000
        self._max_run_s = max_run_ms / 1000
        self._item_s = 0.0  # what a run took for each of its items; nothing known yet: batches may be full
        self._max_waiting = max_waiting
        self._on_depth = on_depth
        self._on_batch = on_batch
        self._waiting = Turns[_Ticket[Item, Result]]()
        self._arrival = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batcher")
        self._worker: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def _most(self) -> int:
        """Items of the next batch, at most."""
        if self._item_s * self._max_batch <= self._max_run_s:
            return self._max_batch
        return max(1, int(self._max_run_s / self._item_s))

    @property
    def waiting(self) -> int:
        """Items that wait for a run."""
        return len(self._waiting)

    async def submit(self, item: Item, *, deadline: float | None = None) -> Result:
        """The result for one item. `deadline` is a time of the running loop's clock; see submit_all for the errors."""
        return (await self.submit_all([item], deadline=deadline)).results[0]

    async def submit_all(self, items: Sequence[Item], *, deadline: float | None = None) -> Answers[Result]:
        """The results for all items, in their order; they join the queue together or not at all.

        Raises Overloaded at once if they don't fit, Draining once closed, DeadlinePassed if `deadline` comes before
        their run does, ModelError if their run fails. Cancelling the caller withdraws what has not run yet.
        """
        if self._closed:
            raise Draining()
        if self._waiting.own + len(items) > self._max_waiting:
            self._waiting.keep(lambda ticket: not ticket.future.done())
        if self._waiting.own + len(items) > self._max_waiting:
            raise Overloaded()
        loop, asked = asyncio.get_running_loop(), time.perf_counter()
        if self._worker is None:
            self._worker = loop.create_task(self._work(), name="batcher")
        tickets = [_Ticket[Item, Result](item, deadline, loop.time(), loop.create_future()) for item in items]
        for ticket in tickets:
            self._waiting.append(ticket)
        self._arrival.set()
        self._on_depth(len(self._waiting))
        try:
            done = await asyncio.gather(*(ticket.future for ticket in tickets))
        finally:
            for ticket in tickets:  # one failed: its companions' answers have no reader any more
                if not ticket.future.cancel() and not ticket.future.cancelled():
                    ticket.future.exception()
        runs = {run for _, run in done}  # items share them, and one run follows another
        ran_s = sum(run.ended - run.began for run in runs)
        queued_s = max((run.ended for run in runs), default=asked) - asked - ran_s
        return Answers([result for result, _ in done], queued_s, ran_s)

    async def close(self) -> None:
        """Refuse new items, finish the batch that runs, and answer those still waiting with Draining."""
        self._closed = True
        for ticket in self._waiting:
            if not ticket.future.done():
                ticket.future.set_exception(Draining())
        self._waiting.clear()
        self._arrival.set()
        if self._worker is not None:
            await self._worker
        self._thread.shutdown()

    async def _work(self) -> None:
        busy = False
        while self._waiting or not self._closed:
            if not self._waiting:
                busy = False
                self._arrival.clear()
                await self._arrival.wait()
                continue
            if busy:  # others are probably on their way
                await self._company()
            batch = self._take()
            busy = bool(batch)
            if batch:
                await self._answer(batch)

    async def _company(self) -> None:
        """Wait until a batch is full or its oldest item has waited long enough."""
        loop = asyncio.get_running_loop()
        until = min(ticket.arrived for ticket in self._waiting) + self._max_delay_s
        while self._waiting and len(self._waiting) < self._most and loop.time() < until:
            self._arrival.clear()
            try:
                async with asyncio.timeout_at(until):
                    await self._arrival.wait()
            except TimeoutError:
                return

    def _take(self) -> list[_Ticket[Item, Result]]:
        """The next batch: the next items whose clients still want an answer and can still get one in time."""
        now = asyncio.get_running_loop().time()
        batch: list[_Ticket[Item, Result]] = []
        while self._waiting and len(batch) < self._most:
            ticket = self._waiting.popleft()
            if ticket.future.done():
                continue
            if ticket.deadline is not None and ticket.deadline <= now:
                ticket.future.set_exception(DeadlinePassed())
            else:
                batch.append(ticket)
        self._on_depth(len(self._waiting))
        return batch

    async def _answer(self, batch: list[_Ticket[Item, Result]]) -> None:
        loop = asyncio.get_running_loop()
        queued_s = tuple(loop.time() - ticket.arrived for ticket in batch)
        started = time.perf_counter()
        outcome: Sequence[Result] | PoseError
        try:
            outcome = await loop.run_in_executor(self._thread, self._run, [ticket.item for ticket in batch])
            if len(outcome) != len(batch):
                outcome = ModelError(f"the network gave {len(outcome)} results for {len(batch)} items")
        except Exception as error:
            outcome = error if isinstance(error, PoseError) else ModelError("the network failed")
            outcome.__cause__ = error if outcome is not error else None
        run = _Run(started, time.perf_counter())
        self._item_s += SMOOTHING * ((run.ended - run.began) / len(batch) - self._item_s)
        failed = outcome if isinstance(outcome, PoseError) else None
        report = BatchReport(len(batch), queued_s, run.ended - run.began, failed)
        self._on_batch(report)
        for index, ticket in enumerate(batch):
            if ticket.future.done():
                continue
            if isinstance(outcome, PoseError):
                ticket.future.set_exception(outcome)
            else:
                ticket.future.set_result((outcome[index], run))
