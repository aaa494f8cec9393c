"""MediaPipe's side of benchmarks.tracking, for an interpreter of its own: MediaPipe 0.10.21 wants older packages.

    PYTHON mediapipe_tracking.py FRAMES.npy

For each line "first last" on stdin, follows the person of those frames; prints in how many it saw somebody, and the
milliseconds of each.
"""

import sys
import time

import mediapipe
import numpy as np


def main() -> None:
    frames = np.load(sys.argv[1], mmap_mode="r")
    pose = mediapipe.solutions.pose.Pose(static_image_mode=False, model_complexity=1)  # 1: BlazePose Full
    for line in sys.stdin:
        first, last = map(int, line.split())
        seen, times = 0, []
        for frame in frames[first:last]:
            began = time.perf_counter()
            found = pose.process(np.ascontiguousarray(frame))
            times.append((time.perf_counter() - began) * 1000)
            seen += found.pose_landmarks is not None
        print(seen, *times, flush=True)


if __name__ == "__main__":
    main()
