"""Who is found several times in a picture, whole and as an upper half for example, is answered once."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from app.geometry import Floats
from app.overlap import TINY, Array, iou, keypoint_similarity
from app.sightings import sizes_px
from app.skeleton import KEYPOINT_NAMES

SAME_PERSON = 0.5  # of two finds: the mean of their poses' OKS and their boxes' IoU from which they show one person
SURE, ENOUGH_SURE = 0.3, 5  # of a keypoint's score; of keypoints, for two poses to be held side by side by them

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
    alike, similar = _likeness(finds)
    surest, rows = _surest(alike), np.arange(len(alike))
    kept = np.unique(surest)
    whose = (surest == kept[:, None]).astype(np.float64)  # (K, N)
    scores = finds.scores.astype(np.float64) + TINY
    for_boxes = scores * alike[surest, rows]  # (N,)
    for_keypoints = scores[:, None] * (finds.keypoint_scores + TINY) * similar[surest, rows]  # (N, 17)
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


def _likeness(finds: Finds) -> tuple[Array, Array]:
    """How like each find is those that are less sure, by poses and boxes (N, N), and its keypoints theirs (N, N, 17).

    Of finds that come best first; each is like itself by 1. Who lies apart is somebody else, and most do: they have 0.
    """
    alike = np.triu(iou(finds.boxes_xyxy, finds.boxes_xyxy), 1)
    similar = np.zeros((*alike.shape, len(KEYPOINT_NAMES)))
    pairs = first, second = np.nonzero(alike)
    sizes = sizes_px(np.asarray(finds.boxes_xyxy, np.float64))
    smaller = np.minimum(sizes[first], sizes[second])  # who stands before another is not taken for that one
    similar[pairs] = keypoint_similarity(finds.keypoints[first], finds.keypoints[second], smaller)
    sure = finds.keypoint_scores >= SURE
    alike[pairs] = (alike[pairs] + _oks(similar[pairs], sure[first] & sure[second])) / 2
    for matrix in (alike, similar):
        matrix[np.diag_indices(len(matrix))] = 1
    return alike, similar


def _oks(similar: Array, both_sure: NDArray[np.bool_]) -> Array:
    """OKS (P,) over the keypoints (P, 17) of which both are sure, if those are ENOUGH_SURE, else over all.

    Who was found whole and as an upper half, too, has legs in one of the two only.
    """
    compared = both_sure | (both_sure.sum(-1, keepdims=True) < ENOUGH_SURE)
    return np.asarray((similar * compared).sum(-1) / compared.sum(-1))
