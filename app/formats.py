"""The shapes of an answer: our own, COCO results, OpenPose."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from app.geometry import Floats
from app.models import Network
from app.pipeline import Person
from app.skeleton import KEYPOINT_NAMES

# OpenPose's BODY_18 ("COCO" model) order; the neck, which COCO lacks, stands between the shoulders.
OPENPOSE_NAMES = (
    "nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist",
    "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle",
    "right_eye", "left_eye", "right_ear", "left_ear",
)  # fmt: skip
OPENPOSE_MIN_SCORE = 0.05  # OpenPose writes 0, 0, 0 for a point it does not see; its renderer's threshold
NO_PARTS: dict[str, list[float]] = {
    name: []
    for name in (
        "face_keypoints_2d", "hand_left_keypoints_2d", "hand_right_keypoints_2d", "pose_keypoints_3d",
        "face_keypoints_3d", "hand_left_keypoints_3d", "hand_right_keypoints_3d",
    )
}  # fmt: skip


def native(
    size_wh: tuple[int, int], people: Sequence[Person], networks: dict[str, Network], timing_ms: dict[str, float]
) -> dict[str, Any]:
    """One picture's answer, as schemas.PoseAnswer documents it."""
    width, height = size_wh
    return {
        "image": {"width": width, "height": height},
        "model": {task: {"name": network.name, "version": network.version} for task, network in networks.items()},
        "people": [native_person(index, person) for index, person in enumerate(people)],
        "timing_ms": {stage: round(ms, 2) for stage, ms in timing_ms.items()},
    }


def native_person(id: int, person: Person) -> dict[str, Any]:
    """One person, as schemas.PersonFound documents it; pixels to two decimals, scores to four."""
    points = zip(KEYPOINT_NAMES, _rounded(person.keypoints), _rounded(person.keypoint_scores, 4), strict=True)
    return {
        "id": id,
        "score": round(float(person.score), 4),
        "box": _rounded(person.box_xyxy),
        "keypoints": [{"name": name, "x": x, "y": y, "score": score} for name, (x, y), score in points],
    }


def coco(people: Sequence[Person], image_id: int = 0) -> list[dict[str, Any]]:
    """COCO keypoint results: bbox is x, y, width, height; keypoints are x, y, score 17 times over."""
    return [
        {
            "image_id": image_id,
            "category_id": 1,
            "bbox": _rounded(np.concatenate([person.box_xyxy[:2], person.box_xyxy[2:] - person.box_xyxy[:2]])),
            "keypoints": _triples(person.keypoints, person.keypoint_scores),
            "score": round(float(person.score), 4),
        }
        for person in people
    ]


def openpose(people: Sequence[Person]) -> dict[str, Any]:
    """OpenPose's JSON, 18 points a person as x, y, confidence."""
    return {
        "version": 1.3,
        "people": [{"person_id": [-1], "pose_keypoints_2d": _openpose_points(person), **NO_PARTS} for person in people],
    }


def _openpose_points(person: Person) -> list[float]:
    left, right = KEYPOINT_NAMES.index("left_shoulder"), KEYPOINT_NAMES.index("right_shoulder")
    neck = (person.keypoints[left] + person.keypoints[right]) / 2
    neck_score = person.keypoint_scores[[left, right]].min()
    order = [KEYPOINT_NAMES.index(name) for name in OPENPOSE_NAMES if name != "neck"]
    at = OPENPOSE_NAMES.index("neck")
    keypoints = np.insert(person.keypoints[order], at, neck, axis=0)  # (18, 2)
    scores = np.insert(person.keypoint_scores[order], at, neck_score)  # (18,)
    seen = scores >= OPENPOSE_MIN_SCORE
    return _triples(keypoints * seen[:, None], scores * seen)


def _triples(keypoints: Floats, scores: Floats) -> list[float]:
    rows = zip(_rounded(keypoints), _rounded(scores, 4), strict=True)
    return [value for (x, y), score in rows for value in (x, y, score)]


def _rounded(values: Floats, decimals: int = 2) -> Any:
    """Nested lists of floats; rounded as float64, where two decimals stay two in JSON. No zero has a sign."""
    return (np.round(np.asarray(values, np.float64), decimals) + 0.0).tolist()
