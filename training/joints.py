"""Which keypoints a data set annotates, and what training must know of them."""

from dataclasses import dataclass

from app.skeleton import FLIP_INDEX, KEYPOINT_NAMES, LIMBS, OKS_SIGMAS


@dataclass(frozen=True)
class JointSet:
    """Keypoints by name, in order.

    flip_index[k] is the keypoint that k becomes in a mirrored picture; `upper` are those above the hips: what a webcam
    sees of a person; `limbs` are pairs to be joined in a drawing; `sigmas` say how far annotators lie apart, as OKS
    has it: in parts of the square root of the person's area.
    """

    name: str
    names: tuple[str, ...]
    flip_index: tuple[int, ...]
    upper: tuple[int, ...]
    limbs: tuple[tuple[int, int], ...]
    sigmas: tuple[float, ...]

    @property
    def lower(self) -> tuple[int, ...]:
        """The keypoints that are not `upper`."""
        return tuple(k for k in range(len(self.names)) if k not in self.upper)


COCO = JointSet(
    "coco", KEYPOINT_NAMES, FLIP_INDEX, upper=tuple(range(11)), limbs=LIMBS, sigmas=tuple(OKS_SIGMAS.tolist())
)
MPII = JointSet(
    "mpii",
    ("right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle")
    + ("pelvis", "thorax", "upper_neck", "head_top")
    + ("right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow", "left_wrist"),
    flip_index=(5, 4, 3, 2, 1, 0, 6, 7, 8, 9, 15, 14, 13, 12, 11, 10),
    upper=tuple(range(7, 16)),
    limbs=((0, 1), (1, 2), (2, 6), (6, 3), (3, 4), (4, 5), (6, 7), (7, 8), (8, 9))
    + ((10, 11), (11, 12), (12, 7), (7, 13), (13, 14), (14, 15)),
    # COCO's of the same names; pelvis as the hips, and thorax, neck and head as the shoulders.
    sigmas=(0.089, 0.087, 0.107, 0.107, 0.087, 0.089, 0.107, 0.079, 0.079, 0.079)
    + (0.062, 0.072, 0.079, 0.079, 0.072, 0.062),
)
JOINT_SETS = {joints.name: joints for joints in (COCO, MPII)}
