"""From a detector's cells to people: who is named by many cells is found once, in a box that they agree upon."""

import numpy as np
from numpy.typing import NDArray

from app.overlap import iou

CELLS = 200  # of one look that are read, the surest: ours hand on as many, other makers' files perhaps thousands
MOST = 50  # people of one look
SAME_PERSON = 0.45  # IoU from which two cells of one look name one person
SPREAD = 0.11  # of the votes: a box that differs by this much of the IoU counts for 0.6, one by twice as much for 0.14
WORTH = 0.5  # share of a person's score from which a cell has a vote

Array = NDArray[np.floating]


def people_of_cells(boxes_xyxy: Array, scores: Array, min_score: float = 0.0) -> tuple[Array, Array]:
    """Boxes (N, 4) and scores (N,), best first, of the people whom a detector's answers (K, 4) and (K,) name.

    Those of at least `min_score`: a higher one only saves time.

    Greedy non-maximum suppression, and each box the mean of the cells' that name the same person, by their scores and
    by how alike they are (He et al., "Bounding Box Regression with Uncertainty", CVPR 2019, section 3.3). A person
    behind another is often no peak of the scores, but a shoulder of the other's: only the boxes tell them apart. The
    answers of a file that suppresses by itself are read in the same way.
    """
    order = np.argsort(-scores, kind="stable")[:CELLS]
    order = order[scores[order] >= WORTH * min_score]  # of the others none has a vote
    boxes, sure = boxes_xyxy[order], scores[order]
    alike = iou(boxes, boxes)  # (K, K)
    left, kept = np.ones(len(boxes), bool), list[int]()
    for row in range(int((sure >= min_score).sum())):
        if left[row] and len(kept) < MOST:
            kept.append(row)
            left &= alike[row] < SAME_PERSON
    votes = sure * np.exp(-(((1 - alike[kept]) / SPREAD) ** 2) / 2) * (sure >= WORTH * sure[kept, None])
    votes[np.arange(len(kept)), kept] += 1e-6  # a score may be 0
    return np.asarray(votes @ boxes / votes.sum(1, keepdims=True)), sure[kept]
