"""Threads for the work on pictures: what is asked of them ends when they do."""

import asyncio
import threading

import pytest
from test_batcher import asynchronous

from app.errors import Draining, Overloaded
from app.workers import Workers


class Job:
    """Work that lasts until the test lets it go."""

    def __init__(self) -> None:
        self.began, self.go = threading.Event(), threading.Event()

    def __call__(self) -> str:
        self.began.set()
        assert self.go.wait(30)
        return "done"


@asynchronous
async def test_what_is_cancelled_ends_when_its_thread_does_and_not_before() -> None:
    workers, job = Workers(1, max_waiting=9), Job()
    task = asyncio.create_task(workers.run(job))
    assert await asyncio.to_thread(job.began.wait, 30)
    for _ in range(3):  # a deadline, a client that leaves, a service that stops
        task.cancel()
        await asyncio.sleep(0)
    assert not task.done()
    job.go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    await workers.close()


@asynchronous
async def test_what_is_cancelled_before_it_begins_never_does() -> None:
    workers, job, later = Workers(1, max_waiting=9), Job(), Job()
    first = asyncio.create_task(workers.run(job))
    assert await asyncio.to_thread(job.began.wait, 30)
    second = asyncio.create_task(workers.run(later))
    await asyncio.sleep(0)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    job.go.set()
    assert await first == "done"
    await workers.close()
    assert not later.began.is_set()


@asynchronous
async def test_a_full_queue_refuses_and_a_closed_one_drains() -> None:
    workers, job = Workers(1, max_waiting=1), Job()
    first = asyncio.create_task(workers.run(job))
    assert await asyncio.to_thread(job.began.wait, 30)
    second = asyncio.create_task(workers.run(job))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await workers.run(job)
    job.go.set()
    assert await first == await second == await workers.run(job) == "done"
    await workers.close()
    with pytest.raises(Draining):
        await workers.run(job)
