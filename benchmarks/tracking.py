"""Milliseconds a frame to follow one person on 640x480 frames, from pixels to keypoints; beside MediaPipe's if asked.

    python -m benchmarks.tracking [--video FILE] [--frames 300] [--mediapipe PYTHON]

--video: a film of one person; without one, a camera that moves before scikit-image's astronaut. --mediapipe: an
interpreter that has mediapipe 0.10.21, whose tracking mode takes turns with ours, 30 frames each, so that a noisy
machine slows both alike. Ours runs as the service does: its settings, batcher, tracker, smoothing, and the detector
every so many frames. Encoding and decoding pictures is on neither's bill. "CPU" is the time of all threads together,
which other work on the machine hardly changes; the rest is time on the wall.
"""

import argparse
import asyncio
import contextlib
import subprocess
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import skimage

from app.following import Follower
from app.geometry import Image
from app.pipeline import Pipeline
from app.settings import Settings
from benchmarks.command import one_line_errors

SIZE_WH = (640, 480)
TURN_FRAMES = 30
FRAME_S = 1 / 30


def frames_of(video: Path | None, count: int) -> np.ndarray:
    """(count, 480, 640, 3) uint8 RGB; a shorter film is played to and fro."""
    found = filmed(video) if video else moved(count)
    there_and_back = [*range(len(found)), *range(len(found) - 2, 0, -1)]
    return np.stack([found[there_and_back[number % len(there_and_back)]] for number in range(count)])


def filmed(video: Path) -> list[Image]:
    capture, found = cv2.VideoCapture(str(video)), []
    while True:
        there, frame = capture.read()
        if not there:
            break
        found.append(cv2.resize(frame, SIZE_WH)[:, :, ::-1])
    if len(found) < 2:
        raise ValueError(f"{video}: a film of at least two frames was expected, OpenCV reads {len(found)}")
    return found


def moved(count: int) -> list[Image]:
    """A camera that sways and zooms before the astronaut."""
    picture, found = skimage.data.astronaut(), []
    for number in range(count):
        phase = 2 * np.pi * number / 150
        zoom = 0.9 + 0.08 * np.sin(phase)
        shift = (90 + 60 * np.sin(2 * phase), 20 + 10 * np.cos(phase))
        matrix = np.array([[zoom, 0, shift[0]], [0, zoom, shift[1]]])
        found.append(cv2.warpAffine(picture, matrix, SIZE_WH, borderValue=(114, 114, 114)))
    return found


class Ours:
    """The service's pipeline and tracker on one stream."""

    def __init__(self) -> None:
        settings = Settings.load()
        self.pipeline = Pipeline(settings)
        self.follower = Follower(self.pipeline, settings)
        self.seen: list[int] = []

    async def turn(self, frames: np.ndarray, first: int) -> list[list[float]]:
        """Milliseconds on the wall and of the CPU for each frame."""
        times = []
        for number, frame in enumerate(frames[first : first + TURN_FRAMES], start=first):
            began, cpu_began = time.perf_counter(), time.process_time()
            people, _ = await self.follower.people(frame, number * FRAME_S)
            times.append([1000 * (time.perf_counter() - began), 1000 * (time.process_time() - cpu_began)])
            self.seen.append(len(people))
        return times


class MediaPipe:
    """benchmarks/mediapipe_tracking.py in an interpreter of its own."""

    def __init__(self, python: str, frames: Path) -> None:
        script = Path(__file__).with_name("mediapipe_tracking.py")
        command, pipe, none = [python, str(script), str(frames)], subprocess.PIPE, subprocess.DEVNULL
        self.seen = 0
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=none, text=True)

    def turn(self, first: int) -> list[list[float]]:
        """As Ours.turn."""
        assert self.process.stdin and self.process.stdout
        with contextlib.suppress(BrokenPipeError):  # where it has ended, nothing comes either
            print(first, first + TURN_FRAMES, file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise ValueError("MediaPipe's interpreter ended; does it have mediapipe 0.10.21?")
        seen, *times = line.split()
        self.seen += int(seen)
        return [[float(wall), float(cpu)] for wall, cpu in zip(times[::2], times[1::2], strict=True)]


async def measure(frames: np.ndarray, python: str | None, folder: Path) -> dict[str, np.ndarray]:
    """Milliseconds (N, 2) on the wall and of the CPU, by whose they are."""
    ours, times = Ours(), {"ours": [], "MediaPipe": []}
    await ours.pipeline.warm()
    if python:
        np.save(folder / "frames.npy", frames)
        theirs = MediaPipe(python, folder / "frames.npy")
    for first in range(0, len(frames) - TURN_FRAMES + 1, TURN_FRAMES):
        times["ours"] += await ours.turn(frames, first)
        if python:
            times["MediaPipe"] += theirs.turn(first)
    if python:
        theirs.process.communicate()  # the end of its input ends it
    await ours.pipeline.close()
    print(f"ours sees one person in {ours.seen.count(1)} of {len(ours.seen)} frames, at most {max(ours.seen)}")
    if python:
        print(f"MediaPipe sees somebody in {theirs.seen}")
    return {name: np.array(values[TURN_FRAMES:]) for name, values in times.items() if values}  # the first turn warms up


def summary(wall_ms: np.ndarray, cpu_ms: np.ndarray) -> np.ndarray:
    """Median, mean and 95th percentile of the time on the wall, and the mean of the CPU's."""
    return np.array([np.median(wall_ms), wall_ms.mean(), np.percentile(wall_ms, 95), cpu_ms.mean()])


@one_line_errors()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", type=Path)
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--mediapipe", metavar="PYTHON")
    arguments = parser.parse_args()
    if arguments.frames < 2 * TURN_FRAMES:
        parser.error(f"--frames: at least {2 * TURN_FRAMES}, the first {TURN_FRAMES} of which warm up")
    frames = frames_of(arguments.video, arguments.frames)
    with tempfile.TemporaryDirectory() as folder:
        times = asyncio.run(measure(frames, arguments.mediapipe, Path(folder)))
    print(f"{'':<12}{'median ms':>10}{'mean':>8}{'95%':>8}{'CPU mean':>10}")
    figures = {name: summary(*values.T) for name, values in times.items()}
    for name, (median, mean, late, cpu) in figures.items():
        print(f"{name:<12}{median:>10.1f}{mean:>8.1f}{late:>8.1f}{cpu:>10.1f}")
    if "MediaPipe" in figures:
        median, mean, _, cpu = figures["MediaPipe"] / figures["ours"]
        print(f"MediaPipe takes {median:.1f} times as long by medians, {mean:.1f} by means, {cpu:.1f} by CPU time")


if __name__ == "__main__":
    main()
