"""Boxes mended by the pose network, whose box head sees a person closer than the detector did (model/box_head.py)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from app.geometry import SMALLEST_BOX_PX, Floats, Matrix, invert, transform
from app.models import CropPose

GOOD_FIT = 0.7  # an IoU; who fits by it is scored as without a box head, and one POSE_MIN_SCORE suits both


@dataclass(frozen=True)
class Mended:
    """N people's boxes (N, 4) xyxy in pixels, within the picture, and fits (N,) in 0..1.

    A fit is how well that box is expected to fit a person (IoU), 0 where nobody is.
    """

    boxes_xyxy: Floats
    fits: Floats

    @property
    def trust(self) -> Floats:
        """How much (N,) of what the detector says is to be believed, 0..1: all where the box fits by GOOD_FIT."""
        return np.asarray(np.minimum(self.fits / GOOD_FIT, 1.0), np.float32)


def mended_boxes(
    boxes_xyxy: Floats, poses: Sequence[CropPose], to_crops: Sequence[Matrix], image_wh: tuple[int, int]
) -> Mended | None:
    """What the box head said of `boxes_xyxy` (N, 4), each cut by a map (2, 3); None from a network without one.

    A box of which nothing lies within the picture is left as it was given.
    """
    own = [pose.box_xyxy for pose in poses if pose.box_xyxy is not None]
    if not own:
        return None
    corners = [transform(box.reshape(2, 2), invert(to_crop)) for box, to_crop in zip(own, to_crops, strict=True)]
    boxes = np.stack(corners).reshape(-1, 4).clip(0, np.array([*image_wh, *image_wh], np.float32))
    whole = ((boxes[:, 2:] - boxes[:, :2]) >= SMALLEST_BOX_PX).all(-1, keepdims=True)
    return Mended(np.where(whole, boxes, boxes_xyxy), np.array([pose.fit for pose in poses], np.float32))
