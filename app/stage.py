"""One network on the way of a picture: room in its queue, its inputs cut from the picture, its run with others'."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Generic, TypeVar

import numpy as np

from app import metrics
from app.batcher import Answers, Batcher, BatchReport
from app.deadline import before
from app.errors import PoseError
from app.geometry import Image, Matrix
from app.models import Network
from app.room import Room
from app.settings import Settings
from app.workers import Workers

log = logging.getLogger("app.stage")

R = TypeVar("R")
FAILURES_UNTIL_UNREADY = 3
PROBE_DEADLINE_S = 1.0  # readiness is asked for by those who do not wait long


class Stage(Generic[R]):
    """A network that all clients share. `run` takes its inputs, `cut` makes them: a picture, maps (2, 3), `size_wh`."""

    def __init__(
        self,
        network: Network,
        run: Callable[[list[Image]], list[R]],
        cut: Callable[[Image, Sequence[Matrix], tuple[int, int]], list[Image]],
        workers: Workers,
        settings: Settings,
    ) -> None:
        self._network = network
        self._cut = cut
        self._workers = workers
        self._failures = 0  # in a row
        limit = settings.max_waiting
        # One batch runs, while each thread cuts the next: with more in it all would be late together.
        size = max((workers.count + 1) * settings.max_batch, settings.most_of_a_picture)
        self._room = Room(min(size, limit), max_waiting=limit, label=f"{network.task} room")
        self.batcher = Batcher(
            run,
            max_batch=settings.max_batch,
            max_delay_ms=settings.max_delay_ms,
            max_run_ms=settings.max_run_ms,
            max_waiting=limit,
            on_depth=metrics.queue_depth.labels(network.task).set,
            on_batch=self._observe,
        )

    async def answers(self, image: Image, maps: Sequence[Matrix], deadline: float | None) -> Answers[R]:
        """What the network says of the parts of `image` that `maps` show, in their order.

        They are cut once its queue has room for all of them. Raises Overloaded, Draining, DeadlinePassed or ModelError.
        """
        asked = time.perf_counter()
        async with before(deadline), self._room.take(len(maps), deadline):
            waited_s = time.perf_counter() - asked
            inputs = await self._workers.run(self._inputs, image, maps)
            answers = await self.batcher.submit_all(inputs, deadline=deadline)
        return replace(answers, queued_s=waited_s + answers.queued_s)

    @property
    def failing(self) -> bool:
        """Whether the last runs all failed."""
        return self._failures >= FAILURES_UNTIL_UNREADY

    async def probe(self) -> None:
        """Where it is failing, try it on an empty picture."""
        if self.failing:
            empty = np.zeros((*self._network.size_wh[::-1], 3), np.uint8)
            with suppress(PoseError, TimeoutError):  # the batch's report counts a failure
                await asyncio.wait_for(self.batcher.submit(empty), PROBE_DEADLINE_S)

    def _inputs(self, image: Image, maps: Sequence[Matrix]) -> list[Image]:
        with metrics.preprocess_seconds.labels(self._network.task).time():
            return self._cut(image, maps, self._network.size_wh)

    def _observe(self, report: BatchReport) -> None:
        model = self._network.task
        self._note(report.error)
        metrics.batch_size.labels(model).observe(report.size)
        metrics.inference_seconds.labels(model).observe(report.ran_s)
        for queued_s in report.queued_s:
            metrics.queue_seconds.labels(model).observe(queued_s)

    def _note(self, error: PoseError | None) -> None:
        """Count a run as failed, or not; a series of failures is logged at length only until it makes unready."""
        if error is None:
            self._failures = 0
        else:
            self._failures += 1
            at_length = self._failures <= FAILURES_UNTIL_UNREADY
            fields = {"model": self._network.task, "in_a_row": self._failures, "why": repr(error.__cause__ or error)}
            log.error("a network failed", extra=fields, exc_info=error if at_length else None)
        metrics.ready.labels(self._network.task).set(not self.failing)
