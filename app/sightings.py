"""What the pose network found in one frame: which of the skeletons are people, each once, and how alike two are."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from app.geometry import Floats
from app.mending import Mended
from app.overlap import Array, iou, nesting, oks
from app.scoring import skeleton_score

# Networks differ in how high they score: what counts is a score beside the other scores of the same person.
SEEN_SHARE = 0.5  # a keypoint below this share of the person's better ones says nothing about where the person is
SEEN_FLOOR = 0.08  # nor does one below this, of whomever
FEWEST_SEEN = 4  # fewer seen keypoints are nobody
NOBODY_SCORE = 0.1  # nor is a skeleton whose keypoints have a lower mean, whatever the network
SAME_SKELETON = 0.6  # OKS, or the mean of it and the boxes' fit, at which two of one frame are one person found twice
NESTED_LESS = 0.25  # a box within another fits almost as well as an equal one: it is often half of the same person
SMALLEST_BOX_PX = 4.0


def seen_keypoints(scores: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Which of one person's keypoints, with scores (17,) in 0..1, are worth showing and following."""
    better = np.sort(scores)[len(scores) * 3 // 4]  # of 17 the upper quartile; np.quantile took half a frame's tracking
    return np.asarray(scores >= max(SEEN_FLOOR, SEEN_SHARE * float(better)))


@dataclass(frozen=True)
class Regions:
    """Where the pose network looks in one frame: `boxes_xyxy` (N, 4) in pixels.

    `detector_scores` (N,) has the detector's scores in 0..1 for its own boxes, NaN for those that tracks ask for.
    `trust` (N,): the boxes are those that a box head saw in there, of whom so much is to be believed, 0..1.
    """

    boxes_xyxy: Array
    detector_scores: Array
    detector_ran: bool
    trust: NDArray[np.floating] | None = None

    def mended(self, by: Mended | None) -> "Regions":
        """The boxes mended, and what the detector says of its own weighed by how well they fit; as it is by None."""
        if by is None:
            return self
        return Regions(by.boxes_xyxy.astype(np.float64), self.detector_scores * by.trust, self.detector_ran, by.trust)


@dataclass(frozen=True)
class Skeleton:
    """What the pose network found in one region; `detector_score` is None where the region came from a track.

    `box_xyxy` (4,) is where to look for the person next; `mended_xyxy` is the box that a box head sees, None without
    one, and `trust` how much it believes in that, 0..1.
    """

    box_xyxy: Array
    keypoints: Array
    scores: Array
    detector_score: float | None
    mended_xyxy: Array | None = None
    trust: float = 1.0

    @cached_property
    def seen(self) -> NDArray[np.bool_]:
        """Which keypoints (17,) say where the person is."""
        return seen_keypoints(self.scores)

    @cached_property
    def mean(self) -> float:
        """How sure the pose network is of this skeleton, 0..1."""
        return float(skeleton_score(self.scores))


def skeletons(
    image_wh: tuple[int, int], regions: Regions, keypoints: NDArray[np.floating], scores: NDArray[np.floating]
) -> list[Skeleton]:
    """The skeletons that are somebody."""
    found = []
    trust = np.ones(len(scores)) if regions.trust is None else regions.trust
    rows = zip(regions.boxes_xyxy, regions.detector_scores.tolist(), trust.tolist(), keypoints, scores, strict=True)
    for box, detector_score, trusted, points, point_scores in rows:
        by_detector = None if np.isnan(detector_score) else detector_score
        mended = None if regions.trust is None else box
        one = Skeleton(box, points, point_scores, by_detector, mended, trusted)
        around = body_box(points[one.seen], image_wh)
        if around is not None and one.mean >= NOBODY_SCORE:
            followed = around if mended is None else (around + mended) / 2
            found.append(one if by_detector is not None else replace(one, box_xyxy=followed))
    return found


def distinct(skeletons: list[Skeleton]) -> list[Skeleton]:
    """Each person once: of two skeletons alike the detector's stays, or else the surer one."""
    surest = sorted(skeletons, key=lambda one: (one.detector_score is None, -one.mean))
    pose, box = pose_fit(surest, surest), box_fit(boxes(surest), boxes(surest))
    same = np.maximum(pose, (pose + box) / 2) >= SAME_SKELETON
    kept: list[int] = []
    for index in range(len(surest)):
        if not same[index, kept].any():
            kept.append(index)
    return [surest[index] for index in kept]


def body_box(seen: Array, image_wh: tuple[int, int]) -> Array | None:
    """The box (4,) within the picture around a person's `seen` keypoints (N, 2); None where too little is seen.

    A body reaches further than its keypoints, by about a tenth: the skull over the eyes, the feet under the ankles.
    """
    if len(seen) < FEWEST_SEEN:
        return None
    low, high = seen.min(axis=0), seen.max(axis=0)
    margin = 0.1 * (high - low) + 0.03 * (high - low).max()
    low, high = np.maximum(low - margin, 0.0), np.minimum(high + margin, np.array(image_wh, np.float64))
    if (high - low < SMALLEST_BOX_PX).any():
        return None
    return np.concatenate([low, high])


def person_boxes(
    boxes_xyxy: NDArray[np.floating],
    keypoints: NDArray[np.floating],
    scores: NDArray[np.floating],
    image_wh: tuple[int, int],
) -> Floats:
    """Boxes (N, 4) of people found in the detector's `boxes_xyxy` (N, 4): each the mean of that and its skeleton's box.

    keypoints (N, 17, 2), scores (N, 17). The two err in different ways: of 847 people in COCO pictures the mean finds
    2 in a hundred more than the detector's box, at an IoU of .5 and 0.3 false people a picture (docs/experiments.md).
    """
    found = np.array(boxes_xyxy, np.float32)
    for row, (points, point_scores) in enumerate(zip(keypoints, scores, strict=True)):
        around = body_box(points[seen_keypoints(point_scores)], image_wh)
        if around is not None:
            found[row] = (found[row] + around) / 2
    return found


def sizes_px(boxes_xyxy: Array) -> Array:
    """People's sizes (...): the square roots of the areas of their boxes (..., 4), at least one pixel."""
    return np.asarray(np.sqrt(np.maximum((boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]).prod(axis=-1), 1.0)))


def box_fit(boxes: Array, others: Array) -> Array:
    """How well (N, M) boxes (N, 4) and others (M, 4) agree that they show the same person, 0..1."""
    return np.maximum(iou(boxes, others), nesting(boxes, others) - NESTED_LESS)


def pose_fit(some: list[Skeleton], others: list[Skeleton]) -> Array:
    """OKS (N, M) of N skeletons and M others over the keypoints seen in both; the area is the smaller box's.

    All at once, as a crowd has thousands of pairs and a frame has milliseconds.
    """
    if not some or not others:
        return np.zeros((len(some), len(others)))
    keypoints, other_keypoints = (np.array([one.keypoints for one in group]) for group in (some, others))
    seen, other_seen = (np.array([one.seen for one in group]) for group in (some, others))
    sizes, other_sizes = (sizes_px(boxes(group)) for group in (some, others))
    both = seen[:, None] & other_seen  # (N, M, 17)
    similarity = oks(keypoints[:, None], other_keypoints, both, np.minimum(sizes[:, None], other_sizes))
    return np.where(both.sum(axis=-1) >= FEWEST_SEEN, similarity, 0.0)


def boxes(skeletons: list[Skeleton]) -> Array:
    """Their boxes (N, 4)."""
    return np.array([one.box_xyxy for one in skeletons], np.float64).reshape(-1, 4)
