"""Every Prometheus metric of the service, declared once; also GPU gauges where there is a GPU.

With several worker processes set PROMETHEUS_MULTIPROC_DIR to an empty folder: prometheus-client then keeps the numbers
in files there, and any worker answers for all.
"""

import os
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, multiprocess
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from app.errors import PoseError

CONTENT_TYPE = prometheus_client.CONTENT_TYPE_LATEST
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

requests = Counter("pose_requests", "HTTP requests answered", ["endpoint", "code"])  # exported as ..._total
rejected = Counter("pose_rejected", "Requests and frames refused", ["reason"])
request_seconds = Histogram(
    "pose_request_duration_seconds",
    "Time from the last byte of an HTTP request to the end of its answer",
    ["endpoint", "code"],
    buckets=SECONDS,
)
queue_seconds = Histogram(
    "pose_queue_duration_seconds",
    "Wait for a network's run, or for a place, room or thread",
    ["model"],
    buckets=SECONDS,
)
decode_seconds = Histogram("pose_decode_duration_seconds", "Bytes to upright picture", buckets=SECONDS)
preprocess_seconds = Histogram(
    "pose_preprocess_duration_seconds", "Picture to network input", ["model"], buckets=SECONDS
)
inference_seconds = Histogram("pose_inference_duration_seconds", "One run of a network", ["model"], buckets=SECONDS)
postprocess_seconds = Histogram(
    "pose_postprocess_duration_seconds", "Network output to people", ["model"], buckets=SECONDS
)
batch_size = Histogram("pose_batch_size", "Items in one run", ["model"], buckets=(1, 2, 4, 8, 16, 32, 64))
queue_depth = Gauge(
    "pose_queue_depth", "Items waiting for a run, or requests for place or room", ["model"], multiprocess_mode="livesum"
)
people_per_image = Histogram("pose_people_per_image", "People found in a picture", buckets=(0, 1, 2, 5, 10, 20, 50))
stream_sessions = Gauge("pose_stream_sessions", "Open streams", multiprocess_mode="livesum")
stream_frames = Counter("pose_stream_frames", "Frames received", ["outcome"])
stream_frame_age_seconds = Histogram(
    "pose_stream_frame_age_seconds", "Age of a frame when its answer is sent", buckets=SECONDS
)
execution_provider = Gauge(
    "pose_execution_provider_info",
    "1 for the provider that really runs a network",
    ["model", "provider"],
    multiprocess_mode="livemax",
)
ready = Gauge(
    "pose_ready",
    "1 while a network works, 0 after several failed runs in a row",
    ["model"],
    multiprocess_mode="livemin",
)
build = Gauge(
    "pose_build_info", "1, labelled with the versions", ["version", "onnxruntime"], multiprocess_mode="livemax"
)


OUTCOMES = ("answered", "dropped", "bad", "failed", "overloaded", "abandoned")  # of a stream's frame


def show_zeros() -> None:
    """Let what has not happened yet count 0: Prometheus sees no first step of a counter that was not there before."""
    kinds = [PoseError]
    for kind in kinds:
        rejected.labels(kind.reason)
        kinds += kind.__subclasses__()
    for reason in ("sessions", "client_sessions", "disconnected", "not_found", "method", "protocol"):
        rejected.labels(reason)
    for outcome in OUTCOMES:
        stream_frames.labels(outcome)


class GpuCollector(Collector):
    """Utilisation (0..1) and memory of each NVIDIA GPU, read when Prometheus asks."""

    def __init__(self) -> None:
        import pynvml

        self._nvml = pynvml
        pynvml.nvmlInit()  # raises NVMLError where there is no driver

    def describe(self) -> Iterable[GaugeMetricFamily]:
        return []

    def collect(self) -> Iterable[GaugeMetricFamily]:
        used_share = GaugeMetricFamily("pose_gpu_utilization_ratio", "Share of time the GPU was busy", labels=["gpu"])
        used = GaugeMetricFamily("pose_gpu_memory_used_bytes", "GPU memory in use", labels=["gpu"])
        total = GaugeMetricFamily("pose_gpu_memory_bytes", "GPU memory there is", labels=["gpu"])
        try:
            for index in range(self._nvml.nvmlDeviceGetCount()):
                gpu = self._nvml.nvmlDeviceGetHandleByIndex(index)
                memory = self._nvml.nvmlDeviceGetMemoryInfo(gpu)
                used.add_metric([str(index)], memory.used)
                total.add_metric([str(index)], memory.total)
                used_share.add_metric([str(index)], self._nvml.nvmlDeviceGetUtilizationRates(gpu).gpu / 100)
        except self._nvml.NVMLError:  # a figure the GPU cannot give (MIG has no utilisation) must not cost the others
            pass
        return [used_share, used, total]


_gpu: GpuCollector | None = None


def watch_gpu() -> bool:
    """Add the GPU's gauges to /metrics. Returns False, and does nothing, where there is no NVIDIA driver."""
    global _gpu
    if _gpu is None:
        try:
            _gpu = GpuCollector()
        except Exception:  # no package, no driver, no permission: all mean that there is nothing to show
            return False
        prometheus_client.REGISTRY.register(_gpu)
    return True


def end_process() -> None:
    """Take this process's gauges out of those of several: what it had open and waiting is no more."""
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        multiprocess.mark_process_dead(os.getpid())  # type: ignore[no-untyped-call]


def package_version() -> str:
    """The installed version of this package, or "unknown" when it runs from a bare checkout."""
    try:
        return version("okdhp")
    except PackageNotFoundError:
        return "unknown"


def exposition() -> bytes:
    """All metrics in Prometheus's text format, over all worker processes when there are several."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return prometheus_client.generate_latest()
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    if _gpu is not None:
        registry.register(_gpu)
    return prometheus_client.generate_latest(registry)
