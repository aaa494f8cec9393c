"""What clients send and see: the options of a request, and the documents of the OpenAPI page."""

import math
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.errors import BadParameter
from app.geometry import Floats
from app.pipeline import Options
from app.settings import Settings
from app.skeleton import KEYPOINT_NAMES

LARGEST_COORDINATE_PX = 1e6
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class PoseParameters(BaseModel):
    """The query parameters of POST /pose. An unknown one is refused: a typing error must not pass for an option."""

    model_config = ConfigDict(extra="forbid")

    max_people: int | None = Field(None, ge=1, description="at most this many people, the surest first")
    min_score: Share | None = Field(None, description="nobody with a smaller score; by default POSE_MIN_SCORE")
    boxes: str | None = Field(
        None,
        description="x1,y1,x2,y2;... in pixels: skips detection and gives exactly one person per box, in this order",
        examples=["10,20,110,320;200,15,290,300"],
    )
    tiles: int | None = Field(
        None,
        ge=1,
        description="overlapping tiles a side in which a large picture is looked at, too: finds those who are small in "
        "it and takes longer; 1: only as a whole; by default POSE_TILES",
    )
    format: Literal["native", "coco", "openpose"] = Field(
        "native", description="shape of the answer: our own, COCO results (one list), or OpenPose's 18 points"
    )
    render: Literal["json", "jpeg"] = Field("json", description="jpeg: the picture with the people drawn into it")

    def options(self, settings: Settings) -> Options:
        """These parameters within the service's limits. Raises BadParameter."""
        limit = settings.max_people
        if (self.max_people or 0) > limit:
            raise BadParameter(f"max_people: at most {limit} here")
        boxes = None if self.boxes is None else parse_boxes(self.boxes)
        if boxes is not None and len(boxes) > limit:
            raise BadParameter(f"boxes: at most {limit} here, not {len(boxes)}")
        if (self.tiles or 0) > settings.max_tiles:
            raise BadParameter(f"tiles: at most {settings.max_tiles} here")
        return Options(self.max_people or limit, self.min_score, boxes, self.tiles)


class StreamOptions(BaseModel):
    """What a client may set, before the first frame or between two; what is not named stays as it was."""

    model_config = ConfigDict(extra="forbid", strict=True)

    max_people: Annotated[int, Field(ge=1)] | None = None  # null: the service's limit
    min_score: Share | None = None  # null: the service's
    detect_every: Annotated[int, Field(ge=1, le=10_000)] | None = None  # frames; null: the service's default
    smoothing: bool = True
    detect: bool = False  # true: the next frame goes through the detector
    tiles: Annotated[int, Field(ge=1)] | None = None  # a side, in which the detector looks, too; null: the default


def parse_boxes(text: str) -> Floats:
    """Boxes (N, 4) of `x1,y1,x2,y2;...`, N >= 1. Raises BadParameter unless each is finite and a pixel wide."""
    rows = []
    for number, part in enumerate(text.strip().rstrip(";").split(";"), start=1):
        try:
            x1, y1, x2, y2 = (float(word) for word in part.split(","))
        except ValueError:
            raise BadParameter(f"boxes: box {number} is not four numbers x1,y1,x2,y2") from None
        if not all(math.isfinite(v) and abs(v) <= LARGEST_COORDINATE_PX for v in (x1, y1, x2, y2)):
            raise BadParameter(f"boxes: box {number} has a number out of range")
        if x2 - x1 < 1 or y2 - y1 < 1:
            raise BadParameter(f"boxes: box {number} needs x2 >= x1 + 1 and y2 >= y1 + 1")
        rows.append((x1, y1, x2, y2))
    return np.array(rows, np.float32)


class Problem(BaseModel):
    """An error (RFC 9457)."""

    type: str = "about:blank"
    title: str = Field(examples=["Not a readable picture"])
    status: int = Field(examples=[400])
    detail: str = Field(examples=["the picture is truncated or damaged"])
    reason: str = Field(description="for programs: stays when a sentence changes", examples=["bad_image"])


class Size(BaseModel):
    """The upright picture's size in pixels."""

    width: int
    height: int


class ModelName(BaseModel):
    """Which network answered."""

    name: str
    version: str


class Models(BaseModel):
    """The two networks behind an answer."""

    pose: ModelName
    detector: ModelName


class Keypoint(BaseModel):
    """One of COCO's 17 points, in pixels of the upright picture; it may lie outside."""

    name: Literal[KEYPOINT_NAMES]  # type: ignore[valid-type]
    x: float
    y: float
    score: Share


class PersonFound(BaseModel):
    """One person. `score`: the detector's times the mean of the keypoints'; with `boxes` given, the mean alone."""

    id: int
    score: Share
    box: tuple[float, float, float, float]
    keypoints: list[Keypoint] = Field(min_length=len(KEYPOINT_NAMES), max_length=len(KEYPOINT_NAMES))


class Timing(BaseModel):
    """Milliseconds: `queue` is all waits; `detect` and `pose` are the work without them; together they are `total`."""

    decode: float
    queue: float
    detect: float
    pose: float
    total: float


class PoseAnswer(BaseModel):
    """The people of one picture, surest first; an empty list when there is nobody."""

    image: Size
    model: Models
    people: list[PersonFound]
    timing_ms: Timing


class PoseAnswers(BaseModel):
    """The answers for several pictures, in their order."""

    results: list[PoseAnswer]


class CocoPerson(BaseModel):
    """One person of `format=coco`: an entry of a COCO result file. image_id counts the request's pictures from 0."""

    image_id: int
    category_id: Literal[1]
    bbox: tuple[float, float, float, float] = Field(description="x, y, width, height")
    keypoints: list[float] = Field(description="x, y, score, 17 times over", min_length=51, max_length=51)
    score: Share


class OpenPosePerson(BaseModel):
    """One person of `format=openpose`: 18 points as x, y, confidence; of the other parts it has none."""

    person_id: list[int]
    pose_keypoints_2d: list[float] = Field(min_length=54, max_length=54)
    face_keypoints_2d: list[float]
    hand_left_keypoints_2d: list[float]
    hand_right_keypoints_2d: list[float]
    pose_keypoints_3d: list[float]
    face_keypoints_3d: list[float]
    hand_left_keypoints_3d: list[float]
    hand_right_keypoints_3d: list[float]


class OpenPoseAnswer(BaseModel):
    """The people of one picture, as OpenPose writes them."""

    version: float
    people: list[OpenPosePerson]


class OpenPoseAnswers(BaseModel):
    """The same for several pictures, in their order."""

    results: list[OpenPoseAnswer]


AnyAnswer = PoseAnswer | PoseAnswers | list[CocoPerson] | OpenPoseAnswer | OpenPoseAnswers


class ImageBody(BaseModel):
    """The JSON way to send a picture: base64, with or without a `data:image/...;base64,` prefix."""

    model_config = ConfigDict(extra="forbid")

    image: str

    @model_validator(mode="before")
    @classmethod
    def _no_strangers(cls, given: Any) -> Any:
        """Raises BadParameter that names a key the service does not know."""
        strangers = sorted(given.keys() - cls.model_fields) if isinstance(given, dict) else []
        if strangers:
            raise BadParameter(f'the body must be JSON like {{"image": "<base64>"}}, without {strangers[0][:100]!r}')
        return given
