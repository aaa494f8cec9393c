"""What tiles find in large pictures, and what they cost.

    python -m benchmarks.large_pictures --data DIR [--split val] [--scenes 25] [--out FILE.jpg]

As no large pictures are annotated, scenes of 4 x 4 cells of 512 pixels are put together from annotated ones: two at
twice the size, eight as large as a cell. Recall of people taller than 64 px (IoU 0.5) as the service finds them, at
0.1, 0.3 and 1 false people for each of the ten pictures, and the time of a scene. `--out` draws the first scene's
people as they are found with the most tiles.
"""

import argparse
import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from app import render
from app.pipeline import Options, Pipeline
from app.settings import Settings
from app.tiling import looks
from benchmarks.command import at_least, one_line_errors
from training.data import Dataset
from training.datasets import load_dataset
from training.evaluate import complete_pictures
from training.metrics import MIN_BOX_HEIGHT_PX, Floats, outside_crowds, recall_at_false_rate

CELL_PX, CELLS = 512, 4
PLACES = ((0, 0, 2), (2, 0, 2), *((column, row, 1) for row in (2, 3) for column in range(CELLS)))  # x, y, side: cells
TILES = (1, 2, 3, 4)
RATES = (0.1, 0.3, 1.0)
GREY = 114


@dataclass(frozen=True)
class Scene:
    """A picture (H, W, 3) uint8 RGB, the boxes (N, 4) of the people in it, and those (M, 4) of crowds."""

    picture: np.ndarray
    people: Floats
    crowds: Floats


def scenes(dataset: Dataset, count: int) -> Iterator[Scene]:
    """`count` scenes, always the same ones. Raises ValueError where the pictures do not suffice."""
    order = np.random.default_rng(0).permutation(complete_pictures(dataset)).tolist()
    if count * len(PLACES) > len(order):
        raise ValueError(f"{count} scenes need {count * len(PLACES)} pictures, and there are {len(order)}")
    for first in range(0, count * len(PLACES), len(PLACES)):
        yield scene(dataset, order[first : first + len(PLACES)])


def scene(dataset: Dataset, indices: list[int]) -> Scene:
    """The pictures `indices`, one at each of PLACES."""
    canvas = np.full((CELLS * CELL_PX, CELLS * CELL_PX, 3), GREY, np.uint8)
    owner, crowd = dataset.people.picture.numpy(), dataset.people.crowd.numpy()
    boxes, crowds = [], []
    for (column, row, side), index in zip(PLACES, indices, strict=True):
        picture = dataset.pictures.picture(index)
        scale = side * CELL_PX / max(picture.shape[:2])
        part = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        x, y = column * CELL_PX, row * CELL_PX
        canvas[y : y + part.shape[0], x : x + part.shape[1]] = part
        moved = dataset.people.boxes.numpy() * scale + np.float32([x, y, x, y])
        boxes.append(moved[(owner == index) & ~crowd])
        crowds.append(moved[(owner == index) & crowd])
    return Scene(canvas, np.concatenate(boxes), np.concatenate(crowds))


async def measure(data: Path, split: str, count: int, out: Path | None) -> None:
    settings = Settings.load(min_score=0.0, max_people=250)
    pipeline = Pipeline(settings)
    try:
        await pipeline.warm()  # before the pictures, which take their time
        made = list(scenes(load_dataset(data, split), count))
        height, width = made[0].picture.shape[:2]
        tall = sum(int((one.people[:, 3] - one.people[:, 1] > MIN_BOX_HEIGHT_PX).sum()) for one in made)
        print(f"{count} scenes of {width}x{height}, {tall} people")
        print("tiles  looks  recall at " + ", ".join(f"{rate:g}" for rate in RATES) + " false   median ms")
        for tiles in TILES:
            recalls, median_ms = await looked_at(made, pipeline, Options(settings.max_people, tiles=tiles))
            number = len(looks((width, height), pipeline.detector.size_wh, tiles))
            shown = "".join(f"{recall:8.3f}" for recall in recalls)
            print(f"{tiles:5}{number:7}{shown}{median_ms:19.0f}", flush=True)
        if out is not None:
            asked = Options(settings.max_people, Settings.model_fields["min_score"].default, tiles=TILES[-1])
            drawn = (await pipeline.people(made[0].picture, asked)).people
            out.write_bytes(render.to_jpeg(render.draw(made[0].picture, drawn)))
    finally:
        await pipeline.close()


async def looked_at(made: list[Scene], pipeline: Pipeline, options: Options) -> tuple[list[float], float]:
    """Recall of the scenes' people at each of RATES, and the median milliseconds of a scene."""
    found, times_ms = [], []
    for one in made:
        started = time.perf_counter()
        answer = (await pipeline.people(one.picture, options)).people
        times_ms.append((time.perf_counter() - started) * 1e3)
        boxes = np.array([person.box_xyxy for person in answer]).reshape(-1, 4)
        found.append((boxes, np.array([person.score for person in answer])))
    people = [one.people for one in made]
    judged = outside_crowds(found, people, [one.crowds for one in made])
    recalls = [recall_at_false_rate(judged, people, rate * len(PLACES))[0] for rate in RATES]
    return recalls, float(np.median(times_ms))


@one_line_errors()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--scenes", type=at_least(1), default=25)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    asyncio.run(measure(arguments.data, arguments.split, arguments.scenes, arguments.out))


if __name__ == "__main__":
    main()
