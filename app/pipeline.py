"""From a picture to people: detect, crop, pose. The networks' batches are shared by all clients."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from app import images, metrics
from app.engine import Engine, available_cpus
from app.geometry import Floats, Image, crop_matrix, invert, transform, warp_each, warp_looks
from app.mending import Mended, mended_boxes
from app.merging import Finds, each_person_once
from app.models import Boxes, DetectorNetwork, Network, PoseNetwork
from app.places import Places
from app.scoring import person_scores
from app.settings import Settings
from app.sightings import person_boxes
from app.skeleton import KEYPOINT_NAMES
from app.stage import Stage
from app.suppression import people_of_cells
from app.tiling import Look, each_once, looks
from app.workers import Workers


@dataclass(frozen=True)
class Detections:
    """Boxes (N, 4) x1, y1, x2, y2 in picture pixels, inside the picture, best first; scores (N,) in 0..1.

    The time they took is that of the waits, `queue_ms`, and that of the work, `work_ms`.
    """

    boxes_xyxy: Floats
    scores: Floats
    queue_ms: float = 0.0
    work_ms: float = 0.0


@dataclass(frozen=True)
class Poses:
    """Keypoints (N, 17, 2) x, y in picture pixels, perhaps outside the picture; scores (N, 17) in 0..1.

    mended: of a network with a box head, where it sees the people it was shown, and how sure it is of that.
    The times are as those of Detections.
    """

    keypoints: Floats
    scores: Floats
    mended: Mended | None = None
    queue_ms: float = 0.0
    work_ms: float = 0.0


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


@dataclass(frozen=True)
class Picture:
    """A decoded picture: upright RGB (H, W, 3) uint8, how long decoding took, and when it was done (perf_counter)."""

    image: Image
    decode_ms: float
    decoded_s: float

    def timing_ms(self, since_s: float, stages_ms: dict[str, float]) -> dict[str, float]:
        """Where the time since `since_s` (perf_counter) went: decoding, the stages after it, all waits in `queue`."""
        waited_ms = (self.decoded_s - since_s) * 1e3 - self.decode_ms
        total_ms = (time.perf_counter() - since_s) * 1e3
        return {"decode": self.decode_ms, **stages_ms, "queue": waited_ms + stages_ms["queue"], "total": total_ms}


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
        threads, max_waiting = available_cpus() + 1, settings.max_waiting
        self.workers = Workers(threads, max_waiting=max_waiting)
        self._detect = Stage(self.detector, self.detector.run, warp_looks, self.workers, settings)
        self._pose = Stage(self.pose_network, self.pose_network.run, warp_each, self.workers, settings)
        # Small pictures: the next batch fills while one runs. Of large ones each is a thread's work for most of its
        # time: with more of them at once all would be late together.
        small, large, pixels = 2 * settings.max_batch + threads, threads, settings.max_decoded_pixels
        self._places = Places(small=small, large=large, pixels=pixels, max_waiting=max_waiting)
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
        failing = (self._detect if name == self.detector.task else self._pose).failing
        return self._warm and not self.draining and not failing

    async def probe(self) -> None:
        """Try each failing network on an empty picture: what is unready is sent no work that would show it healed."""
        await self._detect.probe()
        await self._pose.probe()

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
            metrics.ready.labels(network.task).set(1)
        self._warm = True

    async def close(self) -> None:
        """Refuse new work, answer what waits, and let what runs end."""
        self._closed = True
        await asyncio.gather(self._pose.batcher.close(), self._detect.batcher.close())
        await self.workers.close()

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
        finds = Finds(boxes_xyxy, person_scores(poses.scores, certain), poses.keypoints, poses.scores)
        people = each_person_once(finds)  # best first
        people = people.rows(np.flatnonzero(people.scores >= least)[: options.max_people])
        boxes_xyxy = people.boxes_xyxy
        if poses.mended is None:
            boxes_xyxy = person_boxes(boxes_xyxy, people.keypoints, people.keypoint_scores, image.shape[1::-1])
        found = _people(replace(people, boxes_xyxy=boxes_xyxy))
        metrics.people_per_image.observe(len(found))
        queue_ms = detections.queue_ms + poses.queue_ms
        return People(found, {"queue": queue_ms, "detect": detections.work_ms, "pose": poses.work_ms})

    @asynccontextmanager
    async def opened(self, data: bytes, deadline: float | None = None) -> AsyncIterator[Picture]:
        """The picture in the file `data`, which has a place for its pixels while the block runs.

        Raises as `images.read_header` before it waits for its place, BadImage, Overloaded, or Draining.
        """
        began = time.perf_counter()
        header = await self.workers.run(images.read_header, data, max_pixels=self._settings.max_pixels)
        known = time.perf_counter()
        async with self._places.take(header.pixels, deadline):
            placed = time.perf_counter()
            image = await self.workers.run(_decode, data, header)
            decoded = time.perf_counter()
            yield Picture(image, (known - began + decoded - placed) * 1e3, decoded)

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
        asked = time.perf_counter()
        parts = looks((image.shape[1], image.shape[0]), self.detector.size_wh, tiles)
        answers = await self._detect.answers(image, [part.to_input for part in parts], deadline)
        least = self.detector.min_score if min_score is None else min_score
        boxes, scores = await self.workers.run(_people_seen, parts, answers.results, least, max_people)
        return Detections(boxes, scores, *_times_ms(asked, answers.queued_s))

    async def pose(self, image: Image, boxes_xyxy: Floats, *, deadline: float | None = None) -> Poses:
        """One pose for each of `boxes_xyxy` (N, 4; x1 < x2, y1 < y2, picture pixels), in their order.

        Raises Overloaded, Draining, DeadlinePassed or ModelError.
        """
        if not len(boxes_xyxy):
            count = len(KEYPOINT_NAMES)
            return Poses(np.empty((0, count, 2), np.float32), np.empty((0, count), np.float32))
        asked = time.perf_counter()
        to_crops = [crop_matrix(box, self.pose_network.size_wh) for box in boxes_xyxy]
        answers = await self._pose.answers(image, to_crops, deadline)
        started = time.perf_counter()
        pairs = zip(answers.results, to_crops, strict=True)
        keypoints = np.stack([transform(pose.keypoints, invert(to_crop)) for pose, to_crop in pairs])
        scores = np.stack([pose.scores for pose in answers.results])
        mended = mended_boxes(boxes_xyxy, answers.results, to_crops, image.shape[1::-1])
        metrics.postprocess_seconds.labels("pose").observe(time.perf_counter() - started)
        return Poses(keypoints, scores, mended, *_times_ms(asked, answers.queued_s))

    async def _people_in(self, image: Image, boxes_xyxy: Floats, deadline: float | None) -> People:
        """Exactly one person per given box, in their order, whatever the scores."""
        poses = await self.pose(image, boxes_xyxy, deadline=deadline)
        people = _people(Finds(boxes_xyxy, person_scores(poses.scores), poses.keypoints, poses.scores))
        metrics.people_per_image.observe(len(people))
        return People(people, {"queue": poses.queue_ms, "detect": 0.0, "pose": poses.work_ms})


def _decode(data: bytes, header: images.Header) -> Image:
    with metrics.decode_seconds.time():
        return images.decode_as(data, header)


def _people_seen(parts: list[Look], answers: list[Boxes], min_score: float, most: int) -> tuple[Floats, Floats]:
    """Boxes (N, 4) in picture pixels and scores (N,), best first, of the people whom the detector's `answers` show."""
    with metrics.postprocess_seconds.labels("detector").time():
        told_apart = [people_of_cells(answer.boxes_xyxy, answer.scores, min_score) for answer in answers]
        seen = [part.people(*found, min_score) for part, found in zip(parts, told_apart, strict=True)]
        return each_once(seen, most)


def _times_ms(asked: float, queued_s: float) -> tuple[float, float]:
    """Of the time since `asked` (perf_counter), that of waiting and that of work."""
    return queued_s * 1e3, (time.perf_counter() - asked - queued_s) * 1e3


def _people(finds: Finds) -> tuple[Person, ...]:
    rows = zip(finds.scores.tolist(), finds.boxes_xyxy, finds.keypoints, finds.keypoint_scores, strict=True)
    return tuple(Person(*row) for row in rows)
