"""One ONNX Runtime session: where it runs, warming it, running a batch."""

import logging
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from app.errors import ModelError, StartError

log = logging.getLogger("app.engine")

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
SHORT = {long: short for short, long in PROVIDERS.items()}
# HEURISTIC picks cuDNN's convolutions by rule; the default tries them all, up to 634 ms for every new input shape.
OPTIONS: dict[str, dict[str, Any]] = {
    "cuda": {"cudnn_conv_algo_search": "HEURISTIC"},
    "tensorrt": {"trt_engine_cache_enable": True, "trt_engine_cache_path": ".cache/tensorrt"},
    "cpu": {},
}


@dataclass(frozen=True)
class Tensor:
    """Name, numpy dtype name and shape of an input or output; None is a free dimension."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


class Engine:
    """A loaded network. `provider` is the one that really runs it: "cpu", "cuda" or "tensorrt".

    Raises StartError when the file is missing or broken, or when an explicitly wanted provider is not there.
    """

    def __init__(self, path: Path, *, provider: str = "auto", intra_op_threads: int = 0, max_batch: int = 16) -> None:
        self.path = path
        self._session = _open(path, provider, intra_op_threads)
        self.provider = SHORT.get(self._session.get_providers()[0], self._session.get_providers()[0])
        if provider not in ("auto", self.provider):
            raise StartError(f"{path}: {provider} was asked for, but ONNX Runtime offers only {self.provider}")
        self.inputs = tuple(_tensor(value) for value in self._session.get_inputs())
        self.outputs = tuple(_tensor(value) for value in self._session.get_outputs())
        if len(self.inputs) != 1 or len(self.inputs[0].shape) != 4:
            raise StartError(f"{path}: expected one input of four dimensions, found {[i.shape for i in self.inputs]}")
        fixed = self.inputs[0].shape[0]
        self.buckets = (fixed,) if fixed else buckets(max_batch)

    def warm(self, shape: tuple[int, ...]) -> dict[str, NDArray[Any]]:
        """Run each batch size once on zeros of `shape` (without the batch): the outputs for the smallest.

        Raises StartError if the network fails.
        """
        try:
            runs = [self.run(np.zeros((size, *shape), self.inputs[0].dtype)) for size in self.buckets]
        except ModelError as error:
            raise StartError(f"{self.path}: the network fails on a black picture: {error.__cause__}") from error
        return runs[0]

    def run(self, batch: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Outputs by name for `batch` (N, ...), N of any size. Raises ModelError if the network fails.

        On a GPU the batch is padded to the next bucket, as each new shape costs a search and allocations there. On the
        CPU a new shape costs nothing and padding would be work for nobody.
        """
        largest = self.buckets[-1]
        parts = [self._run_part(batch[start : start + largest]) for start in range(0, len(batch), largest)]
        return (
            parts[0] if len(parts) == 1 else {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        )

    def _run_part(self, part: NDArray[Any]) -> dict[str, NDArray[Any]]:
        count = len(part)
        size = next(bucket for bucket in self.buckets if bucket >= count)
        if size > count and (self.provider != "cpu" or self.inputs[0].shape[0]):
            part = np.concatenate([part, np.zeros((size - count, *part.shape[1:]), part.dtype)])
        try:
            values = self._session.run(None, {self.inputs[0].name: part})
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise ModelError("the network failed") from error
        return {tensor.name: np.asarray(value)[:count] for tensor, value in zip(self.outputs, values, strict=True)}


def buckets(max_batch: int) -> tuple[int, ...]:
    """Batch sizes 1, 2, 4, ... up to and with `max_batch`."""
    return (*(2**power for power in range(max_batch.bit_length()) if 2**power < max_batch), max_batch)


def available_cpus() -> int:
    """CPU cores this process may use: the container's quota (cgroup v2, v1) or the affinity mask, whichever is less."""
    cores = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    for quota_file, period_file in (
        ("/sys/fs/cgroup/cpu.max", None),
        ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"),
    ):
        try:
            words = Path(quota_file).read_text().split()
            quota, period = words if period_file is None else (words[0], Path(period_file).read_text())
            if float(quota) > 0:
                cores = min(cores, float(quota) / float(period))
        except (OSError, ValueError):  # no such file here, or "max": no quota
            continue
    return max(1, math.ceil(cores))


def _open(path: Path, provider: str, intra_op_threads: int) -> onnxruntime.InferenceSession:
    try:
        there = path.is_file()
    except OSError as error:  # a folder on the way may not be looked into
        raise StartError(f"{path}: {error.strerror}") from error
    if not there:
        raise StartError(f"{path}: no such model file")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = intra_op_threads or available_cpus()
    options.inter_op_num_threads = 1
    # A session's idle threads would otherwise spin, and keep the cores from decoding and from the other network: on two
    # cores with other work, detector and pose network together took 80 ms a picture spinning and 20 to 27 ms without.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors only: what matters of the rest is told by our own log line
    providers = _wanted(path, provider)
    try:
        session = onnxruntime.InferenceSession(path, options, providers=providers)
    except Exception as error:
        raise StartError(f"{path}: ONNX Runtime cannot load this file: {str(error).splitlines()[0]}") from error
    session.disable_fallback()  # a failing GPU must be seen, not silently replaced
    log.info("%s runs on %s (asked for: %s)", path.name, session.get_providers()[0], provider)
    return session


def _wanted(path: Path, provider: str) -> list[tuple[str, dict[str, Any]]]:
    """Execution providers to try, best first, the CPU last. Raises StartError if an explicit one is not installed."""
    installed = onnxruntime.get_available_providers()
    if provider == "auto":  # TensorRT only when asked for: it builds for minutes before the first answer
        names = ["cuda"] if PROVIDERS["cuda"] in installed else []
    else:
        names = {"tensorrt": ["tensorrt", "cuda"], "cuda": ["cuda"], "cpu": []}[provider]
    missing = [name for name in names[:1] if PROVIDERS[name] not in installed]
    if missing:
        raise StartError(f"{path}: {missing[0]} was asked for, but this ONNX Runtime has only {', '.join(installed)}")
    if names:
        onnxruntime.preload_dlls()  # CUDA and cuDNN from their Python packages
    return [(PROVIDERS[name], OPTIONS[name]) for name in (*names, "cpu")]


def _tensor(value: Any) -> Tensor:
    dtype = {"tensor(uint8)": "uint8", "tensor(float)": "float32", "tensor(float16)": "float16"}
    shape = tuple(side if isinstance(side, int) and side > 0 else None for side in value.shape)
    return Tensor(value.name, dtype.get(value.type, value.type), shape)
