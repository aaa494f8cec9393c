"""From a picture to people: detect, crop, pose. The networks' batches are shared by all clients."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import ParamSpec, TypeVar

import numpy as np

from app import images, metrics
from app.batcher import Batcher, BatchReport
from app.engine import Engine, available_cpus
from app.errors import DeadlinePassed, Draining, Overloaded, PoseError
from app.geometry import Floats, Image, Matrix, crop_matrix, invert, transform, warp
from app.mending import Mended, mended_boxes
from app.models import DetectorNetwork, Network, PoseNetwork
from app.places import Places
from app.scoring import distinct, person_scores
from app.settings import Settings
from app.sightings import person_boxes
from app.skeleton import KEYPOINT_NAMES
from app.tiling import each_once, looks

P = ParamSpec("P")
R = TypeVar("R")
FAILURES_UNTIL_UNREADY = 3
PROBE_DEADLINE_S = 1.0  # readiness is asked for by those who do not wait long


@dataclass(frozen=True)
class Detections:
    """Boxes (N, 4) x1, y1, x2, y2 in picture pixels, inside the picture, best first; scores (N,) in 0..1."""

    boxes_xyxy: Floats
    scores: Floats
    queue_ms: float = 0.0
    run_ms: float = 0.0


@dataclass(frozen=True)
class Poses:
    """Keypoints (N, 17, 2) x, y in picture pixels, perhaps outside the picture; scores (N, 17) in 0..1.

    mended: of a network with a box head, where it sees the people it was shown, and how sure it is of that.
    """

    keypoints: Floats
    scores: Floats
    mended: Mended | None = None
    queue_ms: float = 0.0
    run_ms: float = 0.0


@dataclass(frozen=True)
class Person:
    """One person: `score` in 0..1, `box_xyxy` (4,), `keypoints` (17, 2) in picture pixels, `keypoint_scores` (17,)."""

    score: float
    box_xyxy: Floats
    keypoints: Floats
    keypoint_scores: Floats


@dataclass(frozen=True)
class Options:
    """What a client may choose. `min_score`, `tiles` None: the service's. `boxes_xyxy` (N, 4) skips detection."""

    max_people: int
    min_score: float | None = None
    boxes_xyxy: Floats | None = None
    tiles: int | None = None


@dataclass(frozen=True)
class People:
    """The people of a picture, best first (or in the order of the client's boxes), and where the time went."""

    people: tuple[Person, ...]
    timing_ms: dict[str, float]


@asynccontextmanager
async def before(deadline: float | None) -> AsyncIterator[None]:
    """Stop what is inside at `deadline` (loop time; None: never) with DeadlinePassed."""
    try:
        async with asyncio.timeout_at(deadline):
            yield
    except TimeoutError:
        raise DeadlinePassed() from None


class Pipeline:
    """The two networks, their batchers, and a bounded pool of threads for the per-picture work."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        load = partial(
            Engine,
            provider=settings.provider,
            intra_op_threads=settings.intra_op_threads,
            max_batch=settings.max_batch,
        )
        self.pose_network = PoseNetwork(load(settings.pose_model))
        self.detector = DetectorNetwork(load(settings.detector_model))
        self._failures: Counter[str] = Counter()  # of each network, in a row
        self._pose_batcher = self._batcher(self.pose_network, self.pose_network.run)
        self._detect_batcher = self._batcher(self.detector, self.detector.run)
        workers = available_cpus() + 1
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="picture")
        self._in_pool = 0
        self._places = Places(2 * settings.max_batch + workers, settings.max_waiting)  # the next batch fills meanwhile
        self._draining = False
        self._closed = False
        self._warm = False

    @property
    def networks(self) -> dict[str, Network]:
        """The loaded networks by the name that clients use."""
        return {network.task: network for network in (self.detector, self.pose_network)}

    @property
    def ready(self) -> bool:
        """Every network loaded and warmed, none failing, and not shutting down."""
        return all(map(self.network_ready, self.networks))

    def network_ready(self, name: str) -> bool:
        """Whether one of `networks` is warmed and not failing, and the service not shutting down."""
        return self._warm and not self.draining and self._failures[name] < FAILURES_UNTIL_UNREADY

    async def probe(self) -> None:
        """Try each failing network on an empty picture: what is unready is sent no work that would show it healed."""
        for network, batcher in ((self.detector, self._detect_batcher), (self.pose_network, self._pose_batcher)):
            if self._failures[network.task] >= FAILURES_UNTIL_UNREADY:
                empty = np.zeros((*network.size_wh[::-1], 3), np.uint8)
                with suppress(PoseError, TimeoutError):  # the batch's report counts a failure
                    await asyncio.wait_for(batcher.submit(empty), PROBE_DEADLINE_S)

    @property
    def draining(self) -> bool:
        """Whether the service is about to stop: what is under way is answered, nothing new is to be begun."""
        return self._draining or self._closed

    def drain(self) -> None:
        """Say from now on that the service is about to stop."""
        self._draining = True

    async def warm(self) -> None:
        """Run every network at every batch size once. Raises StartError if one doesn't do what its kind should."""
        for network in (self.detector, self.pose_network):
            await asyncio.to_thread(network.warm)
            metrics.execution_provider.labels(network.task, network.engine.provider).set(1)
        self._warm = True

    async def close(self) -> None:
        """Refuse new work, answer what waits, and let what runs end."""
        self._closed = True
        await asyncio.gather(self._pose_batcher.close(), self._detect_batcher.close())
        await asyncio.to_thread(self._pool.shutdown)

    async def people(self, image: Image, options: Options, deadline: float | None = None) -> People:
        """The people in `image`. Raises Overloaded, Draining, DeadlinePassed or ModelError."""
        if options.boxes_xyxy is not None:
            return await self._people_in(image, options.boxes_xyxy, deadline)
        least = self._settings.min_score if options.min_score is None else options.min_score
        # A pose only lowers a score: whom the detector gives less needs none. Of the others all are asked for: who is
        # the surest is known only with the poses.
        enough = max(least, self.detector.min_score) if options.min_score is None else least
        tiles, most = options.tiles or self._settings.tiles, self._settings.max_people
        detections = await self.detect(image, min_score=enough, max_people=most, tiles=tiles, deadline=deadline)
        poses = await self.pose(image, detections.boxes_xyxy, deadline=deadline)
        boxes_xyxy, certain = detections.boxes_xyxy, detections.scores
        if poses.mended is not None:
            boxes_xyxy, certain = poses.mended.boxes_xyxy, certain * poses.mended.trust
        scores = person_scores(poses.scores, certain)
        kept = [row for row in distinct(poses.keypoints, poses.scores, scores, boxes_xyxy) if scores[row] >= least]
        kept = kept[: options.max_people]
        boxes_xyxy, sure = boxes_xyxy[kept], Poses(poses.keypoints[kept], poses.scores[kept])
        if poses.mended is None:
            boxes_xyxy = person_boxes(boxes_xyxy, sure.keypoints, sure.scores, image.shape[1::-1])
        found = _people(boxes_xyxy, sure, scores[kept])
        metrics.people_per_image.observe(len(found))
        queue_ms = detections.queue_ms + poses.queue_ms
        return People(found, {"queue": queue_ms, "detect": detections.run_ms, "pose": poses.run_ms})

    def place(self) -> AbstractAsyncContextManager[None]:
        """A place for one decoded picture (`Places.one`)."""
        return self._places.one()

    async def off_loop(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run `work` in the pool of threads; its own queue is bounded, too. Raises Overloaded or Draining."""
        if self._closed:
            raise Draining()
        if self._in_pool >= self._settings.max_waiting:
            raise Overloaded()
        self._in_pool += 1
        loop = asyncio.get_running_loop()
        job = self._pool.submit(work, *args, **kwargs)
        job.add_done_callback(lambda _: loop.call_soon_threadsafe(self._left_pool))  # a thread outlives its client
        return await asyncio.wrap_future(job)

    async def decode(self, data: bytes) -> Image:
        """Bytes to an upright RGB picture, off the event loop. Raises as images.decode, and Overloaded."""
        return await self.off_loop(_decode, data, self._settings.max_pixels)

    async def detect(
        self,
        image: Image,
        *,
        min_score: float | None = None,
        max_people: int,
        tiles: int = 1,
        deadline: float | None = None,
    ) -> Detections:
        """At most `max_people` people of at least `min_score` (None: the detector's own threshold).

        A large picture is looked at in up to tiles x tiles parts, too (`app.tiling`). Raises Overloaded, Draining,
        DeadlinePassed or ModelError.
        """
        size_wh = self.detector.size_wh
        parts = looks((image.shape[1], image.shape[0]), size_wh, tiles)
        async with before(deadline):
            canvases = await self.off_loop(_warped, "detector", image, [part.to_input for part in parts], size_wh)
            answers = await self._detect_batcher.submit_all(canvases, deadline=deadline)
        started = time.perf_counter()
        least = self.detector.min_score if min_score is None else min_score
        pairs = zip(parts, answers.results, strict=True)
        seen = [part.people(found.boxes_xyxy, found.scores, least) for part, found in pairs]
        boxes, scores = each_once(seen, max_people)
        metrics.postprocess_seconds.labels("detector").observe(time.perf_counter() - started)
        return Detections(boxes, scores, answers.queued_s * 1e3, answers.ran_s * 1e3)

    async def pose(self, image: Image, boxes_xyxy: Floats, *, deadline: float | None = None) -> Poses:
        """One pose for each of `boxes_xyxy` (N, 4; x1 < x2, y1 < y2, picture pixels), in their order.

        Raises Overloaded, Draining, DeadlinePassed or ModelError.
        """
        if not len(boxes_xyxy):
            count = len(KEYPOINT_NAMES)
            return Poses(np.empty((0, count, 2), np.float32), np.empty((0, count), np.float32))
        size_wh = self.pose_network.size_wh
        to_crops = [crop_matrix(box, size_wh) for box in boxes_xyxy]
        async with before(deadline):
            crops = await self.off_loop(_warped, "pose", image, to_crops, size_wh)
            answers = await self._pose_batcher.submit_all(crops, deadline=deadline)
        started = time.perf_counter()
        pairs = zip(answers.results, to_crops, strict=True)
        keypoints = np.stack([transform(pose.keypoints, invert(to_crop)) for pose, to_crop in pairs])
        scores = np.stack([pose.scores for pose in answers.results])
        mended = mended_boxes(boxes_xyxy, answers.results, to_crops, image.shape[1::-1])
        metrics.postprocess_seconds.labels("pose").observe(time.perf_counter() - started)
        return Poses(keypoints, scores, mended, answers.queued_s * 1e3, answers.ran_s * 1e3)

    async def _people_in(self, image: Image, boxes_xyxy: Floats, deadline: float | None) -> People:
        """Exactly one person per given box, in their order, whatever the scores."""
        poses = await self.pose(image, boxes_xyxy, deadline=deadline)
        people = _people(boxes_xyxy, poses, person_scores(poses.scores))
        metrics.people_per_image.observe(len(people))
        return People(people, {"queue": poses.queue_ms, "detect": 0.0, "pose": poses.run_ms})

    def _left_pool(self) -> None:
        self._in_pool -= 1

    def _batcher(self, network: Network, run: Callable[[list[Image]], list[R]]) -> Batcher[Image, R]:
        return Batcher(
            run,
            max_batch=self._settings.max_batch,
            max_delay_ms=self._settings.max_delay_ms,
            max_waiting=self._settings.max_waiting,
            on_depth=metrics.queue_depth.labels(network.task).set,
            on_batch=partial(self._observe, network.task),
        )

    def _observe(self, model: str, report: BatchReport) -> None:
        self._failures[model] = 0 if report.ok else self._failures[model] + 1
        metrics.batch_size.labels(model).observe(report.size)
        metrics.inference_seconds.labels(model).observe(report.ran_s)
        for queued_s in report.queued_s:
            metrics.queue_seconds.labels(model).observe(queued_s)


def _decode(data: bytes, max_pixels: int) -> Image:
    with metrics.decode_seconds.time():
        return images.decode(data, max_pixels=max_pixels)


def _warped(model: str, image: Image, maps: list[Matrix], size_wh: tuple[int, int]) -> list[Image]:
    with metrics.preprocess_seconds.labels(model).time():
        return [warp(image, matrix, size_wh) for matrix in maps]


def _people(boxes_xyxy: Floats, poses: Poses, scores: Floats) -> tuple[Person, ...]:
    rows = zip(scores.tolist(), boxes_xyxy, poses.keypoints, poses.scores, strict=True)
    return tuple(Person(*row) for row in rows)
