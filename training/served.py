"""The service's own pipeline on annotated pictures: what a client who gives no boxes gets."""

import asyncio
from pathlib import Path

import numpy as np
from tqdm import tqdm

from app.pipeline import Options, Pipeline
from app.settings import Settings
from training.data import Dataset
from training.metrics import Found


def serve(pose: Path, detector: Path, dataset: Dataset, pictures: list[int]) -> Found:
    """The people the service finds in `pictures`, even those it would not report for their score."""
    settings = Settings(pose_model=pose, detector_model=detector, provider="cpu", min_score=0.0)  # type: ignore[call-arg]
    return asyncio.run(_serve(settings, dataset, pictures))


async def _serve(settings: Settings, dataset: Dataset, pictures: list[int]) -> Found:
    pipeline = Pipeline(settings)
    found: Found = []
    await pipeline.warm()
    try:
        for index in tqdm(pictures, "service", unit="picture"):
            everyone = (await pipeline.people(dataset.pictures.picture(index), Options(settings.max_people))).people
            boxes = np.array([person.box_xyxy for person in everyone], dtype=np.float32).reshape(-1, 4)
            found.append((boxes, np.array([person.score for person in everyone], dtype=np.float32)))
    finally:
        await pipeline.close()
    return found
