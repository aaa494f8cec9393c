"""Latency of the bundled networks beside RTMPose-t's layers, in ONNX Runtime on this machine's CPU, in one run.

    python -m benchmarks.latency [--threads 2] [--rounds 200]

The networks take turns, so that a noisy machine slows them alike; trust the ratio of the medians.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort

from benchmarks.command import at_least, one_line_errors
from benchmarks.rtmpose_like import RTMPoseLike, fold_batch_norms
from model.export import cost, export_onnx

WEIGHTS = Path(__file__).parent.parent / "weights"
BUNDLED = ("pose", "pose-int8", "pose-large", "detector", "detector-int8")


def session_of(path: Path, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")  # or idle threads slow the next network's turn
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def measure(sessions: dict[str, ort.InferenceSession], rounds: int) -> dict[str, np.ndarray]:
    """Milliseconds (rounds,) of each network at batch 1, taking turns, after five rounds of warm-up."""
    feeds = {}
    for name, session in sessions.items():
        (entry,) = session.get_inputs()
        picture = np.random.default_rng(0).integers(0, 255, (1, *entry.shape[1:]), dtype=np.uint8)
        feeds[name] = {entry.name: picture}
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for turn in range(rounds + 5):
        for name, session in sessions.items():
            start = time.perf_counter()
            session.run(None, feeds[name])
            if turn >= 5:
                times[name].append((time.perf_counter() - start) * 1000)
    return {name: np.array(values) for name, values in times.items()}


@one_line_errors()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=at_least(0), default=2)
    parser.add_argument("--rounds", type=at_least(1), default=200)
    arguments = parser.parse_args()
    yardstick = fold_batch_norms(RTMPoseLike().eval())
    counted = cost(yardstick, (256, 192))
    print(f"RTMPose-t's layers: {counted['gmacs']:.2f} GMACs, {counted['parameters'] / 1e6:.2f} M parameters")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "yardstick.onnx"
        export_onnx(yardstick, (256, 192), path)
        files = {"RTMPose-t's layers": path} | {name: WEIGHTS / f"{name}.onnx" for name in BUNDLED}
        sessions = {name: session_of(file, arguments.threads) for name, file in files.items()}
        times = measure(sessions, arguments.rounds)
    reference = times["RTMPose-t's layers"]
    print(f"{'network':<20}{'median ms':>10}{'best ms':>9}{'ratio of medians':>18}{'of bests':>10}")
    for name, values in times.items():
        ratio, best = np.median(values) / np.median(reference), values.min() / reference.min()
        print(f"{name:<20}{np.median(values):>10.2f}{values.min():>9.2f}{ratio:>18.2f}{best:>10.2f}")


if __name__ == "__main__":
    main()
