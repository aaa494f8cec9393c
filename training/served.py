"""The service's own pipeline on annotated pictures: what a client who gives no boxes gets."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from app.pipeline import Options, Person, Pipeline
from app.settings import Settings
from training.coco import result_entry
from training.data import Dataset
from training.metrics import Found

Served = list[tuple[Person, ...]]  # each picture's people, best first


def serve(pose: Path, detector: Path, dataset: Dataset, pictures: list[int]) -> Served:
    """The people the service finds in `pictures`, even those it would not report for their score."""
    settings = Settings.load(pose_model=pose, detector_model=detector, provider="cpu", min_score=0.0)
    return asyncio.run(_serve(settings, dataset, pictures))


async def _serve(settings: Settings, dataset: Dataset, pictures: list[int]) -> Served:
    pipeline, options = Pipeline(settings), Options(settings.max_people)
    await pipeline.warm()
    try:
        asked = tqdm(pictures, "service", unit="picture")
        return [(await pipeline.people(dataset.pictures.picture(index), options)).people for index in asked]
    finally:
        await pipeline.close()


def boxes_and_scores(served: Served) -> Found:
    """What recall is counted from."""
    return [
        (np.array([person.box_xyxy for person in people]).reshape(-1, 4), np.array([person.score for person in people]))
        for people in served
    ]


def coco_results(served: Served, image_ids: list[int]) -> list[dict[str, Any]]:
    """The entries of a COCO result file, given the id of each picture."""
    return [
        result_entry(image_id, person.keypoints, person.keypoint_scores, person.score)
        for image_id, people in zip(image_ids, served, strict=True)
        for person in people
    ]
