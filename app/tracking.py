"""People followed from frame to frame: stable ids, the next frame's regions, and when the detector must look again.

A frame goes `regions` -> pose network -> `update`. Between two runs of the detector the pose network follows people
alone: this frame's keypoints say where to look in the next. Only the detector brings new people, so a region that
slides onto the background dies of its low score and invents nobody. One tracker belongs to one stream.
"""

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from app.sightings import Regions, Skeleton, box_fit, boxes, distinct, pose_fit, sizes_px, skeletons
from app.smoothing import SHORTEST_STEP_S, OneEuro

Array = NDArray[np.float64]
Floats = NDArray[np.floating]

LOST_SHARE = 0.5  # a track whose mean falls under this share of its usual one has left its person
USUAL_WEIGHT = 0.1  # share of the newest frame in a track's usual score
SAME_BOX = 0.5  # fit at which a detection shows a person who is followed already
LINK = 0.25  # likeness under which a skeleton is not where a track went
LOST_FIT = 0.8  # what a lost person's likeness counts against that of somebody in view
GRACE_S = 1.0  # how long a person keeps the id out of the answers: a walker passes behind another in less
OVERLOOKED_LIMIT = 4  # runs of the detector in a row that may overlook a person
HOPE_SHARE = 0.5  # a newcomer under this share of min_score is not followed: each region costs a run of the network
EMPTY_GAP_FRAMES = 3  # with nobody in the answer the detector looks at least this often
PAUSE_S = 0.8  # after more without a frame how far people went on is anyone's guess
VELOCITY_WEIGHT = 0.4  # share of the newest step in a track's velocity


@dataclass(frozen=True)
class TrackedPerson:
    """One person of one frame; pixels, scores in 0..1.

    `score` is the mean of the keypoints' times the detector's, which rises at once and falls by half with each run: one
    bad look at a person who was seen well makes nobody flicker. Where the detector overlooks somebody, the box head's
    word counts in place of its. `box_xyxy` (4,), `keypoints` (17, 2), `keypoint_scores` (17,).
    """

    id: int
    score: float
    box_xyxy: Array
    keypoints: Array
    keypoint_scores: Array


@dataclass
class _Track:
    """A person who is being followed, as last seen."""

    id: int
    last: Skeleton
    seen_at_s: float
    detector_score: float
    usual_score: float = field(init=False)
    shown: Array = field(init=False)  # (19, 2), as `_points` has them, smoothed
    velocity: Array = field(default_factory=lambda: np.zeros(2))  # (2,) pixels per second
    smooth: OneEuro = field(default_factory=OneEuro)
    lost: bool = False
    overlooked: int = 0  # by how many runs of the detector in a row
    shown_at_s: float | None = None  # when this was last in an answer

    def __post_init__(self) -> None:
        self.usual_score = self.last.mean
        self.shown = self._smoothed(self.last, self.seen_at_s)

    def at(self, time_s: float) -> Skeleton:
        """Where this person should be by `time_s`, at a constant velocity for PAUSE_S at the most."""
        shift = self.velocity * min(max(time_s - self.seen_at_s, 0.0), PAUSE_S)
        return replace(
            self.last, box_xyxy=self.last.box_xyxy + np.tile(shift, 2), keypoints=self.last.keypoints + shift
        )

    def can_be(self, found: Skeleton) -> bool:
        """Whether `found` is a person at all, by the standard of this track; the detector's word is enough."""
        return found.detector_score is not None or found.mean >= LOST_SHARE * self.usual_score

    def take(self, found: Skeleton, time_s: float, *, smoothing: bool) -> None:
        """Move to where this person is now."""
        step_s = max(time_s - self.seen_at_s, SHORTEST_STEP_S)
        both = self.last.seen & found.seen
        if both.any():  # keypoints, not boxes: a box also moves when a leg comes into view
            moved = np.median(found.keypoints[both] - self.last.keypoints[both], axis=0) / step_s
            self.velocity = self.velocity + VELOCITY_WEIGHT * (moved - self.velocity)
        box = found.box_xyxy
        if found.detector_score is None:
            box = _eased(self.at(time_s).box_xyxy, box)
        else:
            mean = (self.detector_score + found.detector_score) / 2
            self.detector_score, self.overlooked = max(found.detector_score, mean), 0
        self.usual_score += USUAL_WEIGHT * (found.mean - self.usual_score)
        smooth = self._smoothed(found, time_s)
        self.shown = smooth if smoothing else _points(found)
        self.last, self.seen_at_s, self.lost = replace(found, box_xyxy=box), time_s, False

    def _smoothed(self, found: Skeleton, time_s: float) -> Array:
        """Unseen keypoints are noise: they stay as they are, and their filters start afresh when they are seen."""
        points, seen = _points(found), np.append(found.seen, [True, True])[:, None]
        smooth = self.smooth(np.where(seen, points, np.nan), time_s, float(sizes_px(found.box_xyxy)))
        return np.where(seen, smooth, points)

    def person(self) -> TrackedPerson:
        keypoints, box = self.shown[:-2], self.shown[-2:].reshape(4)
        if self.last.mended_xyxy is None:
            box = self.last.box_xyxy
        return TrackedPerson(self.id, self.last.mean * self.detector_score, box, keypoints, self.last.scores)


class Tracker:
    """Follows the people of one stream. Its public attributes are options that may change between two frames."""

    def __init__(
        self,
        *,
        detect_every_frames: int = 15,
        max_people: int = 50,
        min_score: float = 0.0,
        smoothing: bool = True,
        max_regions: int = 50,
    ) -> None:
        self.detect_every_frames = detect_every_frames
        self.max_people = max_people
        self.min_score = min_score  # nobody with a smaller TrackedPerson.score is shown
        self.smoothing = smoothing
        self.max_regions = max_regions  # what a frame may cost: more than max_people, as not every region is somebody
        self._next_id = 1
        self.forget()

    def forget(self) -> None:
        """Drop everyone, as after a change of camera or picture size. Ids are never used again."""
        self._tracks: list[_Track] = []
        self._asked = True
        self._answered_at_s = 0.0  # the last time
        self._frames_since_detector = 0
        self._fruitless = 0  # runs of the detector in a row that brought nobody

    def ask_detector(self) -> None:
        """Send the next frame through the detector."""
        self._asked = True

    def wants_detector(self) -> bool:
        """Whether the next frame should go through the detector.

        So it is when asked, every `detect_every_frames`, and at once when somebody is lost or nobody is shown; a search
        that brings nobody is repeated ever less often.
        """
        gap = self.detect_every_frames
        if not any(map(self._shows, self._tracks)):
            gap = min(gap, 1 + self._fruitless, EMPTY_GAP_FRAMES)
        elif any(track.lost for track in self._tracks):
            gap = min(gap, 1 + self._fruitless)
        return self._asked or self._frames_since_detector + 1 >= gap

    def regions(self, time_s: float, boxes_xyxy: Floats | None = None, scores: Floats | None = None) -> Regions:
        """Where to look for people at `time_s`, at most `max_regions`; those of known people come first.

        `boxes_xyxy` (M, 4) and `scores` (M,) are the detector's, best first; without them it did not run. Changes
        nothing, so a frame that fails later does no harm.
        """
        followed = boxes([track.at(time_s) for track in self._tracks])
        ran = boxes_xyxy is not None and scores is not None
        detected = np.zeros((0, 4)) if boxes_xyxy is None else np.asarray(boxes_xyxy, np.float64).reshape(-1, 4)
        certain = np.zeros(0) if scores is None else np.asarray(scores, np.float64)
        fit = box_fit(followed, detected)
        pairs = [
            (i, j) for i, j in zip(*linear_sum_assignment(fit, maximize=True), strict=True) if fit[i, j] >= SAME_BOX
        ]
        known, new = [j for _, j in pairs], np.setdiff1d(np.arange(len(detected)), [j for _, j in pairs])
        overlooked = np.delete(followed, [i for i, _ in pairs], axis=0)
        wanted = np.concatenate([detected[known], overlooked, detected[new]])
        origins = np.concatenate([certain[known], np.full(len(overlooked), np.nan), certain[new]])
        return Regions(wanted[: self.max_regions], origins[: self.max_regions], ran)

    def update(
        self, time_s: float, image_wh: tuple[int, int], regions: Regions, keypoints: Floats, scores: Floats
    ) -> list[TrackedPerson]:
        """Take the skeletons found in `regions` of the frame of `time_s`; return the people in view, oldest id first.

        `keypoints` (N, 17, 2) in pixels and `scores` (N, 17) in 0..1 have one row for each region.
        """
        found = distinct(skeletons(image_wh, regions, np.asarray(keypoints), np.asarray(scores)))
        newcomers, turned = self._follow(time_s, found)
        if regions.detector_ran:
            self._asked, self._frames_since_detector = False, 0
            turned = self._welcome(newcomers, time_s) or turned
            self._fruitless += 1
        else:
            self._frames_since_detector += 1
        if turned:
            self._fruitless = 0
        alive = [track for track in self._tracks if track.overlooked < OVERLOOKED_LIMIT]
        alive = [track for track in alive if time_s - track.seen_at_s <= GRACE_S]
        surest = sorted(filter(self._shows, alive), key=lambda track: -track.person().score)
        surplus = {track.id for track in surest[self.max_people :]}
        alive = [track for track in alive if track.id not in surplus]
        for track in filter(self._shows, alive):
            self._show(track, time_s)
        self._answered_at_s = time_s
        self._tracks = sorted(alive, key=lambda track: (track.lost, track.id))  # who is in view has the first claim
        return [track.person() for track in self._tracks if self._shows(track)]

    def _shows(self, track: _Track) -> bool:
        """Whether this person is in the answer, and so takes one of its `max_people` places."""
        return not track.lost and track.person().score >= self.min_score

    def _show(self, track: _Track, time_s: float) -> None:
        """Put this person in the answer, under a new id after a long absence: it may have followed a thing since.

        Who was in the last answer was not absent, however long ago that is.
        """
        left_at_s = track.shown_at_s
        if left_at_s is not None and left_at_s < self._answered_at_s and time_s - left_at_s > GRACE_S:
            track.id = self._new_id()
        track.shown_at_s = time_s

    def _new_id(self) -> int:
        self._next_id += 1
        return self._next_id - 1

    def _follow(self, time_s: float, found: list[Skeleton]) -> tuple[list[Skeleton], bool]:
        """Give each track its skeleton. Returns what is left over, and whether anybody was lost or came back."""
        likeness = _likeness(self._tracks, time_s, found)
        pairs = {int(i): int(j) for i, j in zip(*linear_sum_assignment(likeness, maximize=True), strict=True)}
        taken, turned = set(), False
        for index, track in enumerate(self._tracks):
            chosen, was_lost = pairs.get(index), track.lost
            if chosen is not None and likeness[index, chosen] >= LINK and track.can_be(found[chosen]):
                track.take(found[chosen], time_s, smoothing=self.smoothing)
                taken.add(chosen)
            else:
                track.lost = True
            turned = turned or track.lost != was_lost
        return [one for j, one in enumerate(found) if j not in taken], turned

    def _welcome(self, newcomers: list[Skeleton], time_s: float) -> bool:
        """Start tracks for the surest of those whom the detector brought, as far as there is room; say if any.

        Who is in view keeps the place, even from a surer newcomer: people would take turns with every detection.
        """
        for track in self._tracks:
            if not track.lost and track.last.detector_score is None:
                track.overlooked += 1
                track.detector_score *= (1 + track.last.trust) / 2  # by half where a box head sees nobody, too
        room = max(self.max_people - sum(map(self._shows, self._tracks)), 0)
        brought = [(one, one.detector_score) for one in newcomers if one.detector_score is not None]
        brought = [(one, score) for one, score in brought if one.mean * score >= HOPE_SHARE * self.min_score]
        brought = sorted(brought, key=lambda pair: -pair[0].mean * pair[1])[:room]
        for one, score in brought:
            self._tracks.append(_Track(self._new_id(), one, time_s, score))
        return bool(brought)


def _points(found: Skeleton) -> Array:
    """What is smoothed (19, 2): the keypoints, then two corners of the box head's box, NaN without one.

    That box is for showing alone: where it is wrong, a next frame that looked there would lose the person.
    """
    box = np.full(4, np.nan) if found.mended_xyxy is None else found.mended_xyxy
    return np.concatenate([found.keypoints, box.reshape(2, 2)])


def _eased(before: Array, now: Array) -> Array:
    """Grow at once, shrink by half: a region that shrank with each badly seen limb would lose its person bit by bit."""
    low, high = np.minimum(now[:2], (before[:2] + now[:2]) / 2), np.maximum(now[2:], (before[2:] + now[2:]) / 2)
    return np.concatenate([low, high])


def _likeness(tracks: list[_Track], time_s: float, found: list[Skeleton]) -> Array:
    """How well (N, M) each of `found` fits each track, 0..1.

    Pose tells apart people who overlap, boxes forgive a fast limb. A lost person stands back: where one passes in front
    of another, both have the same place and only one is seen.
    """
    places = [track.at(time_s) for track in tracks]
    share = np.array([LOST_FIT if track.lost else 1.0 for track in tracks]).reshape(-1, 1)
    return np.asarray(share * (pose_fit(places, found) + box_fit(boxes(places), boxes(found))) / 2)
