"""MediaPipe's side of benchmarks.tracking, for an interpreter of its own: MediaPipe 0.10.21 wants older packages.

    PYTHON mediapipe_tracking.py FRAMES.npy

For each line "first last" on stdin, follows the person of those frames; prints in how many it saw somebody, and for
each its milliseconds on the wall and those of the CPU in all threads.
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
            began, cpu_began = time.perf_counter(), time.process_time()
            found = pose.process(np.ascontiguousarray(frame))
            times += [1000 * (time.perf_counter() - began), 1000 * (time.process_time() - cpu_began)]
            seen += found.pose_landmarks is not None
        print(seen, *times, flush=True)


if __name__ == "__main__":
    main()
