"""How many cameras one service follows: python -m benchmarks.cameras --video FILE --url http://localhost:8000

More and more streams send a film's frames, each from another place in it, until a row shows that they are too many: the
frames' age grows, and fewer are answered than are sent. Against a service of your own, with
POSE_STREAM_MAX_SESSIONS_PER_ADDRESS as large as the largest row; the clients here take a part of its cores.
"""

import argparse
import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import cv2
import httpx
import numpy as np
import orjson
from websockets.asyncio.client import connect

from benchmarks.command import at_least, one_line_errors

SETTLING_S = 4.0  # after the streams are open, before frames count: at first all go through the detector
FRAMES = 300  # of the film
LONG_SIDE_PX = 640


@dataclass(frozen=True)
class Answer:
    """When it came, how old its frame was, and whether that went through the detector."""

    came_s: float
    age_ms: float
    looked: bool


def frames_of(video: Path) -> list[bytes]:
    """The film's first frames as JPEG files. Raises ValueError for no video."""
    capture, frames = cv2.VideoCapture(str(video)), []
    while len(frames) < FRAMES and capture.grab():
        read, image = capture.retrieve()
        if read:
            scale = min(1.0, LONG_SIDE_PX / max(image.shape[:2]))
            frames.append(cv2.imencode(".jpg", cv2.resize(image, None, fx=scale, fy=scale))[1].tobytes())
    capture.release()
    if not frames:
        raise ValueError(f"--video {video}: a video was expected")
    return frames


async def stream(
    url: str, frames: Sequence[bytes], start: int, interval_s: float, sent_s: list[float], answers: list[Answer]
) -> None:
    """Send for ever, from frame `start` on; note when, and what comes back."""
    async with connect(url.replace("http", "ws", 1).rstrip("/") + "/stream", compression=None) as socket:

        async def listen() -> None:
            async for text in socket:
                answer = orjson.loads(text)
                if "people" in answer:
                    answers.append(Answer(time.perf_counter(), answer["age_ms"], answer["timing_ms"]["detect"] > 0))

        listening = asyncio.create_task(listen())
        try:
            for frame in islice(cycle(frames), start, None):
                await socket.send(frame)
                sent_s.append(time.perf_counter())
                await asyncio.sleep(interval_s)
        finally:
            listening.cancel()


async def measure(url: str, frames: Sequence[bytes], streams: int, fps: float, seconds: float) -> str:
    """The row of so many streams."""
    sent_s: list[float] = []
    answers: list[Answer] = []
    tasks = []
    for number in range(streams):
        start = number * len(frames) // streams
        tasks.append(asyncio.create_task(stream(url, frames, start, 1 / fps, sent_s, answers)))
        await asyncio.sleep(1 / fps / streams)  # cameras do not take their pictures all at once
    await asyncio.sleep(SETTLING_S)
    began_s = time.perf_counter()
    await asyncio.sleep(seconds)
    counted = [answer for answer in answers if answer.came_s >= began_s]
    sent = sum(at_s >= began_s for at_s in sent_s) / seconds
    ended = [task.exception() for task in tasks if task.done()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    if ended:
        raise ValueError(f"{len(ended)} of {streams} streams were closed: {ended[0]}")
    ages_ms = np.array([answer.age_ms for answer in counted] or [np.nan])
    looks = sum(answer.looked for answer in counted) / seconds
    median, late = np.median(ages_ms), np.quantile(ages_ms, 0.95)
    return f"{streams:>7}{sent:>9.1f}{len(counted) / seconds:>12.1f}{looks:>9.1f}{median:>12.0f}{late:>8.0f}"


@one_line_errors()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--video", type=Path, required=True)
    parser.add_argument("--url", default="http://localhost:8000")
    parser.add_argument("--streams", type=at_least(1), nargs="+", default=[4, 8, 16, 32])
    parser.add_argument("--fps", type=at_least(0.1, float), default=5.0, help="frames a second of each stream")
    parser.add_argument("--seconds", type=at_least(1, float), default=10.0, help="of each row")
    options = parser.parse_args()
    logging.getLogger("httpx").setLevel(logging.WARNING)
    frames = frames_of(options.video)
    try:
        httpx.get(options.url + "/readyz", timeout=10)
    except httpx.HTTPError as error:
        raise ValueError(f"--url {options.url}: a running service was expected: {error}") from error
    print("streams   sent/s  answered/s  looks/s   median ms     95%")
    for streams in options.streams:
        print(asyncio.run(measure(options.url, frames, streams, options.fps, options.seconds)), flush=True)


if __name__ == "__main__":
    main()
