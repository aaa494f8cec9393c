"""Threads for the work on pictures: what is asked of them ends when they do."""

import asyncio
import gc
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
async def test_a_mistake_in_what_was_cancelled_is_no_complaint_of_the_event_loop() -> None:
    workers, job, complaints = Workers(1, max_waiting=9), Job(), list[object]()
    asyncio.get_running_loop().set_exception_handler(lambda _, complaint: complaints.append(complaint))

    def broken() -> None:
        job()
        raise ValueError

    task = asyncio.create_task(workers.run(broken))
    assert await asyncio.to_thread(job.began.wait, 30)
    task.cancel()
    job.go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    await workers.close()
    gc.collect()
    assert not complaints


@asynchronous
async def test_as_many_jobs_run_at_once_as_there_are_threads() -> None:
    workers, jobs = Workers(3, max_waiting=9), [Job() for _ in range(3)]
    tasks = [asyncio.create_task(workers.run(job)) for job in jobs]
    began = [await asyncio.to_thread(job.began.wait, 5) for job in jobs]
    for job in jobs:
        job.go.set()
    assert began == [True] * 3
    assert await asyncio.gather(*tasks) == ["done"] * 3
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


@asynchronous
async def test_the_end_waits_for_what_runs_and_for_nothing_else() -> None:
    workers, job, later = Workers(1, max_waiting=1), Job(), Job()
    first = asyncio.create_task(workers.run(job))
    assert await asyncio.to_thread(job.began.wait, 30)
    second = asyncio.create_task(workers.run(later))
    await asyncio.sleep(0)
    closing = asyncio.create_task(workers.close())
    await asyncio.sleep(0)
    with pytest.raises(Draining):  # at once, though the line is full
        await workers.run(later)
    assert not closing.done()
    job.go.set()
    with pytest.raises(Draining):
        await second
    assert await first == "done" and not later.began.is_set()
    await closing
