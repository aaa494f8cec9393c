"""Who is found several times in a picture, whole and as an upper half for example, is answered once."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from app.geometry import Floats
from app.overlap import Array, iou, keypoint_similarity
from app.sightings import sizes_px
from app.skeleton import KEYPOINT_NAMES

SAME_PERSON = 0.5  # of two finds: the mean of their poses' OKS and their boxes' IoU from which they show one person
SURE, ENOUGH_SURE = 0.3, 5  # of a keypoint's score; of keypoints, for two poses to be held side by side by them
TINY = 1e-9

Rows = NDArray[np.intp]


@dataclass(frozen=True)
class Finds:
    """N finds in one picture: boxes (N, 4) xyxy and keypoints (N, 17, 2) in its pixels; scores of both in 0..1."""

    boxes_xyxy: Floats
    scores: Floats
    keypoints: Floats
    keypoint_scores: Floats

    def rows(self, rows: Rows) -> "Finds":
        """Some of them."""
        return Finds(*(values[rows] for values in vars(self).values()))


def each_person_once(finds: Finds) -> Finds:
    """The people whom `finds` show, best first, with the scores of the surest find of each.

    Box and keypoints are the means of what the finds of a person say, by their scores and by how like the surest's each
    is: one that has the knees elsewhere says nothing of the knees.
    """
    finds = finds.rows(np.argsort(-finds.scores, kind="stable"))
    overlaps = np.triu(iou(finds.boxes_xyxy, finds.boxes_xyxy), 1)  # (N, N), of a find and those less sure
    first, second = np.nonzero(overlaps)  # (P,): who lies apart is somebody else, and most do
    similar = _similarities(finds, first, second)  # (P, 17)
    alike = overlaps / 2
    alike[first, second] += _oks(finds, first, second, similar) / 2
    surest = _surest(alike)
    like_surest = np.ones((len(surest), len(KEYPOINT_NAMES)))
    again = surest[second] == first
    like_surest[second[again]] = similar[again]
    alike[np.diag_indices_from(alike)] = 1
    kept = np.unique(surest)
    whose = (surest == kept[:, None]).astype(np.float64)  # (K, N)
    scores = finds.scores.astype(np.float64) + TINY
    for_boxes = scores * alike[surest, np.arange(len(surest))]  # (N,)
    for_keypoints = scores[:, None] * (finds.keypoint_scores + TINY) * like_surest  # (N, 17)
    return replace(
        finds.rows(kept),
        boxes_xyxy=_means(whose, for_boxes[:, None], finds.boxes_xyxy),
        keypoints=_means(whose, for_keypoints[..., None], finds.keypoints),
    )


def _means(whose: Array, weights: Array, values: Floats) -> Floats:
    """Weighted means (K, ...) of the values (N, ...) of those whose (K, N) is 1; of a single one itself."""
    share = weights / np.tensordot(whose.T, np.tensordot(whose, weights, 1), 1)
    return np.tensordot(whose, share * values, 1).astype(np.float32)


def _surest(alike: Array) -> NDArray[np.intp]:
    """Who each of N finds shows (N,): the index of the surest find of that person, its own where that is itself."""
    owner, kept = np.arange(len(alike)), list[int]()
    for row in range(len(alike)):
        if kept and alike[kept, row].max() >= SAME_PERSON:
            owner[row] = kept[int(alike[kept, row].argmax())]
        else:
            kept.append(row)
    return owner


def _similarities(finds: Finds, first: Rows, second: Rows) -> Array:
    """How like each other's the keypoints of pairs of finds are: (P, 17), 0..1.

    The area is the smaller of the two boxes', so that who stands before another is not taken for that one.
    """
    sizes = sizes_px(np.asarray(finds.boxes_xyxy, np.float64))
    smaller = np.minimum(sizes[first], sizes[second])
    return keypoint_similarity(finds.keypoints[first], finds.keypoints[second], smaller)


def _oks(finds: Finds, first: Rows, second: Rows, similar: Array) -> Array:
    """OKS (P,) over the keypoints of which both are SURE, if those are ENOUGH_SURE, else over all.

    Who was found whole and as an upper half, too, has legs in one of the two only.
    """
    sure = finds.keypoint_scores >= SURE
    both = sure[first] & sure[second]  # (P, 17)
    both |= both.sum(-1, keepdims=True) < ENOUGH_SURE
    return np.asarray((similar * both).sum(-1) / both.sum(-1))
