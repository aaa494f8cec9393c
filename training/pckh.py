"""PCKh as the MPII Human Pose benchmark defines it (Andriluka et al., CVPR 2014), in numpy."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.joints import MPII

Floats = NDArray[Any]
HEAD_FACTOR = 0.6  # a head's size is this share of its box's diagonal (the benchmark's SC_BIAS)
THRESHOLDS = np.arange(51) / 100  # in head sizes; each the float nearest to its decimal: 0.1 is 0.1, not 0.11
# Pelvis and thorax follow from other joints: the benchmark leaves them out of the mean.
COUNTED = np.array([name not in ("pelvis", "thorax") for name in MPII.names])
GROUPS = {
    "head": ("upper_neck", "head_top"),
    "shoulder": ("left_shoulder", "right_shoulder"),
    "elbow": ("left_elbow", "right_elbow"),
    "wrist": ("left_wrist", "right_wrist"),
    "hip": ("left_hip", "right_hip"),
    "knee": ("left_knee", "right_knee"),
    "ankle": ("left_ankle", "right_ankle"),
}


@dataclass(frozen=True)
class Pckh:
    """Shares 0..1 of labelled joints found within a threshold (tables of papers show percent); NaN without a label.

    curve (51, 16) each joint's share at every one of THRESHOLDS; mean_curve (51,) that of all counted joints together.
    """

    curve: Floats
    mean_curve: Floats

    @property
    def at_50(self) -> float:
        """PCKh@0.5: the mean over every labelled joint of every person, pelvis and thorax left out."""
        return float(self.mean_curve[50])

    @property
    def at_10(self) -> float:
        """PCKh@0.1, with a threshold of exactly 0.1."""
        return float(self.mean_curve[10])

    @property
    def auc(self) -> float:
        """Area under `mean_curve` from 0 to 0.5 by the trapezoid rule, as a share of the whole."""
        return float(((self.mean_curve[1:] + self.mean_curve[:-1]) / 2).mean())

    @property
    def joints(self) -> dict[str, float]:
        """PCKh@0.5 of each of the 16 joints."""
        return dict(zip(MPII.names, self.curve[50].tolist(), strict=True))

    @property
    def groups(self) -> dict[str, float]:
        """PCKh@0.5 as the benchmark's table has it: left and right averaged, head of upper neck and head top.

        Many papers' validation tables show head top alone as "head": take it from `joints` to compare with them.
        """
        joints = self.joints
        return {group: (joints[a] + joints[b]) / 2 for group, (a, b) in GROUPS.items()}


def head_sizes(head_boxes: Floats) -> Floats:
    """Sizes (N,) in pixels of the heads in boxes (N, 4) xyxy."""
    sizes: Floats = HEAD_FACTOR * np.hypot(head_boxes[:, 2] - head_boxes[:, 0], head_boxes[:, 3] - head_boxes[:, 1])
    return sizes


def pckh(predicted: Floats, annotated: Floats, labelled: NDArray[np.bool_], head_boxes: Floats) -> Pckh:
    """How many joints were found, in head sizes.

    predicted, annotated (N, 16, 2) in one frame of pixels; labelled (N, 16), whether visible or hidden: only these
    count, also where they lie out of the picture; head_boxes (N, 4) xyxy. A predicted NaN is a joint not found.
    Raises ValueError for other shapes, and for a person without a head box, whom the benchmark cannot measure.
    """
    shape = (len(annotated), len(MPII.names))
    if predicted.shape != (*shape, 2) or annotated.shape != (*shape, 2) or labelled.shape != shape:
        found = f"{predicted.shape}, {annotated.shape}, {labelled.shape}"
        raise ValueError(f"PCKh needs joints (N, 16, 2), (N, 16, 2) and labels (N, 16), got {found}")
    sizes = head_sizes(head_boxes)
    without = np.flatnonzero(~(sizes > 0))
    if len(without):
        raise ValueError(
            f"PCKh needs everyone's head box: {len(without)} of {len(sizes)} have none, first {without[0]}"
        )
    distances = np.linalg.norm(predicted - annotated, axis=2) / sizes[:, None]  # (N, 16)
    near = (distances <= THRESHOLDS[:, None, None]) & labelled  # (51, N, 16)
    found_joints, joints = near.sum(1), labelled.sum(0)  # (51, 16), (16,)
    return Pckh(
        curve=np.where(joints > 0, found_joints / np.maximum(joints, 1), np.nan),
        mean_curve=found_joints[:, COUNTED].sum(1) / joints[COUNTED].sum()
        if joints[COUNTED].any()
        else np.full(51, np.nan),
    )
