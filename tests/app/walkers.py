"""A small world of people who walk, cross and leave, seen by a detector and a pose network of its own."""

from dataclasses import dataclass

import numpy as np

from app.overlap import iou
from app.tracking import PAUSE_S, TrackedPerson, Tracker

IMAGE_WH = (640, 480)
FPS = 20
# A standing person in a box of height 1 and width 0.4: x, y of the 17 keypoints.
STANDING = np.array(
    [
        (0.20, 0.08), (0.22, 0.06), (0.18, 0.06), (0.25, 0.08), (0.15, 0.08), (0.30, 0.20), (0.10, 0.20), (0.35, 0.35),
        (0.05, 0.35), (0.36, 0.48), (0.04, 0.48), (0.26, 0.52), (0.14, 0.52), (0.27, 0.73), (0.13, 0.73), (0.27, 0.95),
        (0.13, 0.95),
    ]
)  # fmt: skip


@dataclass
class Walker:
    """Somebody of `height` pixels whose box begins at `x`, `y` at time 0 and moves `speed` pixels per second."""

    x: float
    speed: float = 0.0
    y: float = 100.0
    height: float = 240.0

    def box(self, time_s: float) -> np.ndarray:
        left = self.x + self.speed * time_s
        return np.array([left, self.y, left + 0.4 * self.height, self.y + self.height])

    def pose(self, time_s: float) -> np.ndarray:
        return self.box(time_s)[:2] + STANDING * self.height


class World:
    """Walkers, nearest first: who is covered by a nearer one is hidden from detector and pose network alike."""

    def __init__(self, *walkers: Walker, noise_px: float = 0.0, seed: int = 0) -> None:
        self.walkers = walkers
        self.noise_px = noise_px
        self.random = np.random.default_rng(seed)
        self.detector_runs = 0
        self.blind = False  # the detector finds nobody
        self.sure = 0.8  # the pose network's score of a keypoint that is there

    def visible(self, time_s: float) -> list[Walker]:
        seen: list[Walker] = []
        for walker in self.walkers:
            box = walker.box(time_s)
            covered = any(iou(box[None], near.box(time_s)[None])[0, 0] > 0.6 for near in seen)
            if not covered and box[2] > 20 and box[0] < IMAGE_WH[0] - 20:
                seen.append(walker)
        return seen

    def detect(self, time_s: float) -> tuple[np.ndarray, np.ndarray]:
        self.detector_runs += 1
        boxes = [] if self.blind else [walker.box(time_s) for walker in self.visible(time_s)]
        return np.array(boxes).reshape(-1, 4), np.full(len(boxes), 0.9)

    def poses(self, time_s: float, regions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The visible person who overlaps each region most; keypoints of low score where there is none."""
        keypoints, scores = np.zeros((len(regions), 17, 2)), np.full((len(regions), 17), 0.06 * self.sure)
        visible = self.visible(time_s)
        for row, region in enumerate(regions):
            keypoints[row] = region[:2]
            overlaps = [iou(region[None], walker.box(time_s)[None])[0, 0] for walker in visible]
            if overlaps and max(overlaps) > 0.15:
                keypoints[row] = visible[int(np.argmax(overlaps))].pose(time_s)
                scores[row] = self.sure
        return keypoints + self.random.normal(0, self.noise_px, keypoints.shape), scores


def step(tracker: Tracker, world: World, time_s: float, arrives_at_s: float | None = None) -> list[TrackedPerson]:
    """One frame, as the stream does it; it comes when it is taken, unless it `arrives_at_s`."""
    known_s = time_s if arrives_at_s is None else arrives_at_s
    if known_s - tracker._answered_at_s > PAUSE_S:
        tracker.ask_detector()
    found = world.detect(time_s) if tracker.wants_detector() else (None, None)
    regions = tracker.regions(known_s, *found)
    return tracker.update(known_s, IMAGE_WH, regions, *world.poses(time_s, regions.boxes_xyxy))


def watch(tracker: Tracker, world: World, seconds: float, start_s: float = 0.0) -> list[list[TrackedPerson]]:
    return [step(tracker, world, start_s + index / FPS) for index in range(int(seconds * FPS))]


def whose(person: TrackedPerson, world: World, time_s: float) -> int:
    """The index of the walker whom `person` shows."""
    errors = [np.abs(person.keypoints - walker.pose(time_s)).mean() for walker in world.walkers]
    return int(np.argmin(errors))


def one_frame(tracker: Tracker, detector_scores: list[float], sure: list[float], time_s: float = 0.0):
    """People side by side, one for each of the detector's scores, whose keypoints are as sure as `sure` says."""
    world = World(*(Walker(20 + 200 * index) for index in range(len(sure))))
    regions = tracker.regions(time_s, world.detect(time_s)[0], np.array(detector_scores))
    keypoints, scores = world.poses(time_s, regions.boxes_xyxy)
    for row, box in enumerate(regions.boxes_xyxy):
        scores[row] = sure[int(box[0]) // 200]
    people = tracker.update(time_s, IMAGE_WH, regions, keypoints, scores)
    return [whose(person, world, time_s) for person in people]
