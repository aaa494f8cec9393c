"""How good keypoints and boxes are, in numpy; where a public evaluator exists, a test shows equal figures."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.skeleton import OKS_SIGMAS

OKS_THRESHOLDS = np.arange(0.50, 0.951, 0.05)
MIN_LABELLED = 5  # people with fewer labelled keypoints, or a lower box, are too uncertain to be measured on
MIN_BOX_HEIGHT_PX = 64
FALSE_PER_PICTURE = 0.3  # the working point of a detector's evaluation

RIGHT, NEITHER, FALSE = 1, 0, -1  # what a found box is

Floats = NDArray[Any]
Found = list[tuple[Floats, Floats]]  # each picture's boxes (N, 4) xyxy, best first, and their scores (N,)


def oks(predicted: Floats, annotated: Floats, labelled: NDArray[np.bool_], area: Floats) -> Floats:
    """Object keypoint similarity (N,) in 0..1 over the labelled keypoints (COCO's keypoint evaluation).

    predicted, annotated (N, 17, 2) pixels; labelled (N, 17); area (N,) px^2. People without a label get 0.
    """
    similarity = keypoint_similarity(predicted, annotated, area)
    mean: Floats = (similarity * labelled).sum(1) / np.maximum(labelled.sum(1), 1)
    return mean


def keypoint_similarity(predicted: Floats, annotated: Floats, area: Floats) -> Floats:
    """What each keypoint brings to `oks`, labelled or not: (N, 17) in 0..1."""
    squared = ((predicted - annotated) ** 2).sum(-1)
    variance = (2 * OKS_SIGMAS) ** 2
    similarity: Floats = np.exp(-squared / variance / (area[:, None] + np.spacing(1)) / 2)
    return similarity


def oks_share(similarities: Floats) -> float:
    """Share of people with OKS >= t, mean over t = .50:.05:.95; NaN for nobody."""
    if len(similarities) == 0:
        return float("nan")
    return float((similarities[:, None] >= OKS_THRESHOLDS[None]).mean())


def measured(labelled: NDArray[np.bool_], boxes: Floats) -> NDArray[np.bool_]:
    """Which people (N,) the OKS share counts: enough labelled keypoints and a box (N, 4) xyxy high enough."""
    enough: NDArray[np.bool_] = (labelled.sum(1) >= MIN_LABELLED) & (boxes[:, 3] - boxes[:, 1] >= MIN_BOX_HEIGHT_PX)
    return enough


def iou(a: Floats, b: Floats) -> Floats:
    """Pairwise intersection over union (N, M) of boxes (N, 4) and (M, 4) xyxy."""
    shared = _shared(a, b)
    area_a, area_b = ((x[:, 2:] - x[:, :2]).prod(-1) for x in (a, b))
    ratio: Floats = shared / np.maximum(area_a[:, None] + area_b[None] - shared, 1e-9)
    return ratio


def _shared(a: Floats, b: Floats) -> Floats:
    """Pairwise intersection (N, M) of boxes (N, 4) and (M, 4) xyxy, in px^2."""
    left_top = np.maximum(a[:, None, :2], b[None, :, :2])
    right_bottom = np.minimum(a[:, None, 2:], b[None, :, 2:])
    area: Floats = np.clip(right_bottom - left_top, 0, None).prod(-1)
    return area


def match_boxes(found: Floats, annotated: Floats, threshold: float = 0.5) -> NDArray[np.int64]:
    """For each found box (best first) the annotated one it claims at IoU >= threshold, each once, or -1."""
    claimed = np.full(len(found), -1, dtype=np.int64)
    overlaps = iou(found, annotated) if len(found) and len(annotated) else np.zeros((len(found), len(annotated)))
    for row in range(len(found)):
        if overlaps.shape[1] and overlaps[row].max() >= threshold:
            claimed[row] = overlaps[row].argmax()
            overlaps[:, claimed[row]] = -1
    return claimed


def recall_at_false_rate(found: Found, annotated: list[Floats], rate: float = FALSE_PER_PICTURE) -> tuple[float, float]:
    """Recall at IoU 0.5 of people taller than 64 px where `rate` false people are found a picture, and that threshold.

    A found box that matches a smaller listed person is neither right nor wrong.
    """
    scores, kinds, total = _outcomes(found, annotated)
    order = np.argsort(-scores)
    false = np.cumsum(kinds[order] == FALSE)
    last = int(np.searchsorted(false, rate * len(found), side="right")) - 1
    if last < 0:
        return 0.0, 1.0
    return float((kinds[order][: last + 1] == RIGHT).sum() / max(total, 1)), float(scores[order][last])


def recall_and_false_rate(found: Found, annotated: list[Floats], threshold: float) -> tuple[float, float]:
    """As `recall_at_false_rate` counts them: recall, and false people a picture, of scores of at least `threshold`."""
    scores, kinds, total = _outcomes(found, annotated)
    kept = kinds[scores >= threshold]
    return float((kept == RIGHT).sum() / max(total, 1)), float((kept == FALSE).sum() / max(len(found), 1))


def outside_crowds(found: Found, annotated: list[Floats], crowds: list[Floats]) -> Found:
    """`found` without whom no annotated box claims and who lies by more than half in a crowd (N, 4) of the picture.

    As COCO's evaluation has it: who is found there is neither right nor wrong.
    """
    kept = []
    for (boxes, confidence), listed, crowd in zip(found, annotated, crowds, strict=True):
        area = (boxes[:, 2:] - boxes[:, :2]).prod(-1)
        counts = ~(_shared(boxes, crowd) > area[:, None] / 2).any(1)
        if not counts.all():
            counts |= match_boxes(boxes, listed) >= 0
        kept.append((boxes[counts], confidence[counts]))
    return kept


def _outcomes(found: Found, annotated: list[Floats]) -> tuple[Floats, NDArray[np.int64], int]:
    """Every found box's score and what it is, and how many tall people there are."""
    scores, kinds, total = [], [], 0
    for (boxes, confidence), listed in zip(found, annotated, strict=True):
        tall = (listed[:, 3] - listed[:, 1]) > MIN_BOX_HEIGHT_PX
        total += int(tall.sum())
        claimed = match_boxes(boxes, listed)
        kinds.append(np.where(claimed < 0, FALSE, np.append(tall, False)[claimed].astype(int)))
        scores.append(confidence)
    return np.concatenate(scores), np.concatenate(kinds), total
