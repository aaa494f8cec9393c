"""One stream's people, frame by frame: the pipeline finds them, the tracker knows who is who."""

import numpy as np

from app.geometry import Image
from app.pipeline import Pipeline
from app.settings import Settings
from app.tracking import TrackedPerson, Tracker


class Follower:
    """Follows the people of one stream. `min_score`, `tiles` and the tracker's options may change between frames."""

    def __init__(self, pipeline: Pipeline, settings: Settings) -> None:
        self._pipeline = pipeline
        self._max_regions = settings.max_people
        self._image_wh = (0, 0)
        self.min_score: float | None = None  # of the detector's finds; None: its own threshold
        self.tiles = settings.stream_tiles  # a side, in which the detector looks at a large frame, too
        self.tracker = Tracker(
            detect_every_frames=settings.stream_detect_every_frames,
            max_people=settings.max_people,
            min_score=settings.min_score,
            max_regions=settings.max_people,
        )

    async def people(
        self, image: Image, time_s: float, deadline: float | None = None
    ) -> tuple[list[TrackedPerson], dict[str, float]]:
        """The people in the next frame, of `time_s`, oldest id first, and the milliseconds of each stage.

        Raises Overloaded, Draining, DeadlinePassed or ModelError; the tracker then is as it was before, or knows nobody
        where the frames have another size now.
        """
        image_wh = (image.shape[1], image.shape[0])
        if image_wh != self._image_wh:  # another camera, or the phone was turned: old places mean nothing
            self.tracker.forget()
            self._image_wh = image_wh
        queue_ms, detect_ms, regions = 0.0, 0.0, self.tracker.regions(time_s)
        if self.tracker.wants_detector():
            found = await self._pipeline.detect(
                image, min_score=self.min_score, max_people=self._max_regions, tiles=self.tiles, deadline=deadline
            )
            regions = self.tracker.regions(time_s, found.boxes_xyxy, found.scores)
            queue_ms, detect_ms = found.queue_ms, found.work_ms
        poses = await self._pipeline.pose(image, regions.boxes_xyxy.astype(np.float32), deadline=deadline)
        people = self.tracker.update(time_s, image_wh, regions.mended(poses.mended), poses.keypoints, poses.scores)
        return people, {"queue": queue_ms + poses.queue_ms, "detect": detect_ms, "pose": poses.work_ms}
