"""The dynamic batcher, with a "network" whose runs the test holds back and lets go."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from functools import wraps
from typing import Any

import pytest

from app.batcher import Batcher, BatchReport
from app.errors import DeadlinePassed, Draining, ModelError, Overloaded
from app.turns import LIVE


class Gate:
    """Doubles its items; each run waits until the test lets it go, and its batch is remembered."""

    def __init__(self, closed: bool = False) -> None:
        self.batches: list[list[int]] = []
        self.open = threading.Event()
        self.running = threading.Semaphore(0)
        if not closed:
            self.open.set()

    def __call__(self, items: list[int]) -> list[int]:
        self.batches.append(items)
        self.running.release()
        assert self.open.wait(30)
        if -1 in items:
            raise ValueError("a bad item")
        return [2 * item for item in items]

    async def busy(self) -> None:
        """Return once a run has begun."""
        assert await asyncio.to_thread(self.running.acquire, timeout=30)


def batcher(run: Callable[[list[int]], list[int]], **settings: Any) -> Batcher[int, int]:
    return Batcher(run, **{"max_batch": 4, "max_delay_ms": 0.0, "max_waiting": 100, **settings})


def asynchronous(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    @wraps(test)
    def run() -> None:
        asyncio.run(test())

    del run.__wrapped__  # type: ignore[attr-defined]  # pytest would see the coroutine function
    return run


async def waiting(queue: Batcher[int, int], count: int) -> None:
    """Return once `count` items are in the queue."""
    while queue.waiting != count:
        await asyncio.sleep(0)


async def outcome(answer: Awaitable[int]) -> object:
    try:
        return await answer
    except Exception as error:
        return type(error)


@asynchronous
async def test_a_lone_item_runs_at_once_however_long_the_delay() -> None:
    queue = batcher(Gate(), max_delay_ms=1e9)
    assert await queue.submit(21) == 42
    assert await queue.submit(22) == 44
    await queue.close()


@asynchronous
async def test_items_that_arrive_during_a_run_share_the_next_one() -> None:
    gate = Gate(closed=True)
    queue = batcher(gate)
    first = asyncio.create_task(queue.submit(0))
    await gate.busy()
    others = [asyncio.create_task(queue.submit(item)) for item in range(1, 7)]
    await waiting(queue, 6)
    gate.open.set()
    assert await asyncio.gather(first, *others) == [0, 2, 4, 6, 8, 10, 12]
    assert gate.batches == [[0], [1, 2, 3, 4], [5, 6]]
    await queue.close()


@asynchronous
async def test_after_a_run_a_batch_waits_for_company_until_it_is_full() -> None:
    gate = Gate(closed=True)
    queue = batcher(gate, max_delay_ms=1e9)
    first = asyncio.create_task(queue.submit(0))
    await gate.busy()
    second = asyncio.create_task(queue.submit(1))
    await waiting(queue, 1)
    gate.open.set()
    await first
    assert gate.batches == [[0]]
    rest = await queue.submit_all([2, 3, 4])
    assert await second == 2 and rest.results == [4, 6, 8]
    assert gate.batches == [[0], [1, 2, 3, 4]]
    await queue.close()


@asynchronous
async def test_after_a_run_no_item_waits_longer_than_the_delay() -> None:
    gate = Gate(closed=True)
    queue = batcher(gate, max_delay_ms=1)
    first = asyncio.create_task(queue.submit(0))
    await gate.busy()
    second = asyncio.create_task(queue.submit(1))
    await waiting(queue, 1)
    gate.open.set()
    assert await first == 0 and await second == 2
    await queue.close()


@asynchronous
async def test_cancelled_client_does_not_stop_the_batch() -> None:
    gate = Gate(closed=True)
    queue = batcher(gate)
    first = asyncio.create_task(queue.submit(0))
    await gate.busy()
    stays, leaves = asyncio.create_task(queue.submit(1)), asyncio.create_task(queue.submit(2))
    await waiting(queue, 2)
    first.cancel()  # in the batch that runs
    leaves.cancel()  # still in the queue
    await asyncio.gather(first, leaves, return_exceptions=True)
    gate.open.set()
    assert await stays == 2
    assert gate.batches == [[0], [1]]
    assert await queue.submit(5) == 10
    await queue.close()


@asynchronous
async def test_a_failing_run_fails_its_own_items_and_no_others() -> None:
    gate = Gate()
    queue = batcher(gate, max_batch=2)
    answers = [outcome(queue.submit(item)) for item in (1, -1, 3, 4)]
    assert await asyncio.gather(*answers) == [ModelError, ModelError, 6, 8]
    assert await queue.submit(5) == 10
    await queue.close()


@asynchronous
async def test_too_few_results_are_an_error_for_the_whole_batch() -> None:
    queue = batcher(lambda items: items[:-1])
    assert await asyncio.gather(*(outcome(queue.submit(item)) for item in (1, 2))) == [ModelError, ModelError]
    await queue.close()


@asynchronous
async def test_an_expired_item_is_dropped_before_the_run() -> None:
    gate = Gate(closed=True)
    queue = batcher(gate)
    first = asyncio.create_task(queue.submit(0))
    await gate.busy()
    past = asyncio.get_running_loop().time()
    late = asyncio.create_task(outcome(queue.submit(1, deadline=past)))
    in_time = asyncio.create_task(queue.submit(2, deadline=past + 3600))
    await waiting(queue, 2)
    gate.open.set()
    assert await asyncio.gather(first, late, in_time) == [0, DeadlinePassed, 4]
    assert gate.batches == [[0], [2]]
    await queue.close()


@asynchronous
async def test_a_full_queue_refuses_at_once_and_works_again_later() -> None:
    gate = Gate(closed=True)
    queue = batcher(gate, max_waiting=2)
    first = asyncio.create_task(queue.submit(0))
    await gate.busy()
    second = asyncio.create_task(queue.submit(1))
    await waiting(queue, 1)
    with pytest.raises(Overloaded) as refused:
        await queue.submit_all([2, 3])  # all of them or none
    assert refused.value.retry_after_s is not None and queue.waiting == 1
    gate.open.set()
    assert await asyncio.gather(first, second) == [0, 2]
    assert (await queue.submit_all([2, 3])).results == [4, 6]
    await queue.close()


@asynchronous
async def test_items_of_clients_who_left_make_room() -> None:
    gate = Gate(closed=True)
    queue = batcher(gate, max_waiting=1)
    first = asyncio.create_task(queue.submit(0))
    await gate.busy()
    leaves = asyncio.create_task(queue.submit(1))
    await waiting(queue, 1)
    leaves.cancel()
    await asyncio.gather(leaves, return_exceptions=True)
    stays = asyncio.create_task(queue.submit(2))
    await asyncio.sleep(0)
    gate.open.set()
    assert await asyncio.gather(first, stays) == [0, 4]
    await queue.close()


@asynchronous
async def test_closing_ends_the_run_and_answers_those_who_wait() -> None:
    gate = Gate(closed=True)
    queue = batcher(gate)
    first = asyncio.create_task(queue.submit(0))
    await gate.busy()
    second = asyncio.create_task(outcome(queue.submit(1)))
    await waiting(queue, 1)
    closing = asyncio.create_task(queue.close())
    assert await second is Draining
    with pytest.raises(Draining):
        await queue.submit(2)
    gate.open.set()
    assert await first == 0
    await closing
    assert gate.batches == [[0]]


@asynchronous
async def test_an_unused_batcher_closes() -> None:
    await batcher(Gate()).close()


@asynchronous
async def test_reports_tell_sizes_and_outcome() -> None:
    reports: list[BatchReport] = []
    depths: list[int] = []
    queue = batcher(Gate(), on_batch=reports.append, on_depth=depths.append)
    await queue.submit_all([1, 2, 3])
    await outcome(queue.submit(-1))
    await queue.close()
    assert [(report.size, report.error is None, len(report.queued_s)) for report in reports] == [
        (3, True, 3), (1, False, 1)
    ]  # fmt: skip
    assert depths == [3, 0, 1, 0]


@asynchronous
async def test_the_runs_of_a_client_s_own_items_are_no_wait_and_a_shared_one_counts_once() -> None:
    reports: list[BatchReport] = []
    queue = batcher(Gate(), max_batch=2, on_batch=reports.append)
    began = time.perf_counter()
    answers = await queue.submit_all([1, 2, 3, 4, 5])
    took_s = time.perf_counter() - began
    await queue.close()
    assert [report.size for report in reports] == [2, 2, 1]
    assert answers.ran_s == pytest.approx(sum(report.ran_s for report in reports))
    assert 0 <= answers.queued_s <= took_s - answers.ran_s


@asynchronous
async def test_the_runs_of_others_are_a_wait() -> None:
    gate, reports = Gate(closed=True), list[BatchReport]()
    queue = batcher(gate, on_batch=reports.append)
    other = asyncio.create_task(queue.submit(0))
    await gate.busy()
    mine = asyncio.create_task(queue.submit_all([1]))
    await waiting(queue, 1)
    asked = time.perf_counter()
    await asyncio.sleep(0.01)
    least_s = time.perf_counter() - asked  # so long it has waited, at least
    gate.open.set()
    await other
    answers = await mine
    assert answers.ran_s == reports[1].ran_s and answers.queued_s >= least_s
    await queue.close()


@asynchronous
async def test_no_items_have_no_results() -> None:
    queue = batcher(Gate())
    assert (await queue.submit_all([])).results == []
    await queue.close()


@asynchronous
async def test_items_of_a_stream_do_not_wait_behind_all_others() -> None:
    gate = Gate(closed=True)
    queue = batcher(gate)
    first = asyncio.create_task(queue.submit(0))
    await gate.busy()
    others = [first, *(asyncio.create_task(queue.submit(item)) for item in range(1, 9))]
    LIVE.set(True)
    live = asyncio.create_task(queue.submit(100))
    await waiting(queue, 9)
    gate.open.set()
    await asyncio.gather(live, *others)
    assert gate.batches == [[0], [100, 1, 2, 3], [4, 5, 6, 7], [8]]
    await queue.close()
