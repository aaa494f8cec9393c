"""How often the service invents somebody in a picture without people.

    python -m benchmarks.nobody [--views 20] [--enlarged 1] [--out DIR]

Random views of scikit-image's own pictures without people (objects, animals, textures, microscopy, text), turned,
scaled and in other light, and drawn noise and gradients: each is asked as a client asks, with its sides `--enlarged`
so many times (beyond 1 to 1.4, by its shape, it is looked at in tiles, too: POSE_TILES). `--out` keeps those in which
somebody was found, with who it was drawn in.
"""

import argparse
import asyncio
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import skimage
from PIL import Image

from app import render
from app.pipeline import Options, Pipeline
from app.settings import Settings
from benchmarks.command import at_least, one_line_errors

NAMES = (
    "brick.png chelsea.png chessboard_RGB.png clock_motion.png coffee.png coins.png color.png grass.png gravel.png "
    "horse.png hubble_deep_field.jpg ihc.png microaneurysms.png moon.png motorcycle_left.png page.png phantom.png "
    "retina.jpg rocket.jpg text.png cell.png logo.png"
).split()
SIDES = ((480, 640), (640, 480), (512, 512), (360, 640))


def pictures(views: int) -> Iterator[tuple[str, np.ndarray]]:
    """Names and pictures (H, W, 3) uint8 RGB, `views` of each source; always the same ones."""
    random = np.random.default_rng(0)
    folder = Path(skimage.__file__).parent / "data"
    for name in NAMES:
        whole = np.asarray(Image.open(folder / name).convert("RGB"))
        for number in range(views):
            yield f"{Path(name).stem}-{number}", view(whole, random)
    for number in range(views):
        height, width = SIDES[number % len(SIDES)]
        cells = random.integers(0, 255, (*random.integers(2, 40, 2), 3), dtype=np.uint8)
        yield f"noise-{number}", cv2.resize(cells, (width, height), interpolation=cv2.INTER_CUBIC)
        ramp = np.linspace(random.integers(0, 255, 3), random.integers(0, 255, 3), width).astype(np.uint8)
        yield f"gradient-{number}", np.repeat(ramp[None], height, axis=0)


def view(whole: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A part of a picture, turned, scaled, mirrored or not, darker or brighter."""
    height, width = SIDES[random.integers(len(SIDES))]
    fit = max(width / whole.shape[1], height / whole.shape[0]) * random.uniform(0.7, 2.0)
    matrix = cv2.getRotationMatrix2D((whole.shape[1] / 2, whole.shape[0] / 2), random.uniform(-20, 20), fit)
    matrix[:, 2] += np.array([width, height]) / 2 - np.array(whole.shape[1::-1]) / 2
    matrix[:, 2] += random.uniform(-0.2, 0.2, 2) * (width, height)
    part = cv2.warpAffine(whole, matrix, (width, height), borderMode=cv2.BORDER_REFLECT_101)
    lit = np.clip(part * random.uniform(0.4, 1.3), 0, 255).astype(np.uint8)
    return lit[:, ::-1].copy() if random.random() < 0.5 else lit


async def ask(settings: Settings, views: int, enlarged: float, out: Path | None) -> None:
    pipeline = Pipeline(settings)
    await pipeline.warm()
    asked, found = 0, []
    try:
        for name, small in pictures(views):
            picture = cv2.resize(small, None, fx=enlarged, fy=enlarged, interpolation=cv2.INTER_CUBIC)
            people = (await pipeline.people(picture, Options(settings.max_people))).people
            asked += 1
            if people:
                found.append((people[0].score, name))
                if out is not None:
                    out.mkdir(parents=True, exist_ok=True)
                    (out / f"{name}.jpg").write_bytes(render.to_jpeg(render.draw(picture, people)))
    finally:
        await pipeline.close()
    print(f"somebody in {len(found)} of {asked} pictures without people: {100 * len(found) / asked:.1f}%")
    for score, name in sorted(found, reverse=True)[:10]:
        print(f"  {score:.2f} {name}")


@one_line_errors()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--views", type=at_least(1), default=20)
    parser.add_argument("--enlarged", type=at_least(0.1, float), default=1.0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    asyncio.run(ask(Settings.load(), arguments.views, arguments.enlarged, arguments.out))


if __name__ == "__main__":
    main()
