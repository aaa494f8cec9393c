"""The metrics that dashboards rely on."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import Server, encoded, picture
from test_batcher import asynchronous

from app import metrics
from app.limits import Record

PICTURE = encoded(picture(boxes=((20, 20, 44, 70),)))
ROOT = Path(__file__).parent.parent.parent
NAMES = {
    "pose_requests_total", "pose_rejected_total", "pose_request_duration_seconds", "pose_queue_duration_seconds",
    "pose_decode_duration_seconds", "pose_preprocess_duration_seconds", "pose_inference_duration_seconds",
    "pose_postprocess_duration_seconds", "pose_batch_size", "pose_queue_depth", "pose_people_per_image",
    "pose_stream_sessions", "pose_stream_frames_total", "pose_stream_frame_age_seconds",
    "pose_execution_provider_info", "pose_build_info", "pose_ready",
}  # fmt: skip


def test_every_promised_metric_is_declared(server: Server) -> None:
    text = server.client.get("/metrics").text
    assert NAMES <= {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}


def test_what_has_not_happened_yet_counts_zero(tiny_models: dict[str, Path]) -> None:
    count = (
        "import sys; from app import main, metrics, settings; from pathlib import Path; "
        "main.create_app(settings.Settings(pose_model=Path(sys.argv[1]), detector_model=Path(sys.argv[2]))); "
        "print(metrics.exposition().decode())"
    )
    command = [sys.executable, "-c", count, tiny_models["pose_model"], tiny_models["detector_model"]]
    text = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for sample in ('rejected_total{reason="model_error"}', 'stream_frames_total{outcome="failed"}'):
        assert f"pose_{sample} 0.0\n" in text


def test_each_wait_and_each_run_is_timed_under_its_own_name(server: Server) -> None:
    def timed() -> dict[tuple[str, str], float]:
        waits = [("queue", of) for of in ("place", "pose room", "detector room", "pose", "detector")]
        runs = [("inference", "pose"), ("inference", "detector")]
        return {(what, of): server.metric(f"pose_{what}_duration_seconds_count", model=of) for what, of in waits + runs}

    before = timed()
    assert server.client.post("/pose", content=PICTURE).status_code == 200
    assert timed() == {each: count + 1 for each, count in before.items()}


def test_the_time_of_a_request_begins_with_its_last_byte(server: Server) -> None:
    def slowly() -> Iterator[bytes]:
        yield PICTURE[:100]
        threading.Event().wait(0.5)
        yield PICTURE[100:]

    def recorded() -> tuple[float, float]:
        name, labels = "pose_request_duration_seconds", {"endpoint": "/pose", "code": "200"}
        return server.metric(f"{name}_count", **labels), server.metric(f"{name}_bucket", **labels, le="0.5")

    before = recorded()
    assert server.client.post("/pose", content=slowly()).status_code == 200
    assert recorded() == (before[0] + 1, before[1] + 1)


@asynchronous
async def test_a_request_that_ends_without_an_answer_is_not_counted_as_our_mistake() -> None:
    async def cut_off(*connection: object) -> None:
        raise asyncio.CancelledError

    counted = metrics.requests.labels("unknown", "499")._value
    before = counted.get()
    with pytest.raises(asyncio.CancelledError):
        scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
        await Record(cut_off)(scope, cut_off, cut_off)
    assert counted.get() == before + 1


def test_several_worker_processes_are_added_up(tmp_path: Path) -> None:
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    count = "from app import metrics; metrics.rejected.labels('x').inc(); metrics.build.labels('1', '2').set(1)"
    for _ in range(2):
        subprocess.run([sys.executable, "-c", count], cwd=ROOT, env=environment, check=True)
    show = "from app import metrics; print(metrics.exposition().decode())"
    text = subprocess.run(
        [sys.executable, "-c", show], cwd=ROOT, env=environment, check=True, capture_output=True
    ).stdout
    assert b'pose_rejected_total{reason="x"} 2.0' in text


def test_a_worker_that_ended_leaves_its_counts_and_not_its_streams(tmp_path: Path) -> None:
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    work = "from app import metrics; metrics.stream_sessions.inc(); metrics.rejected.labels('x').inc(); "
    subprocess.run([sys.executable, "-c", work + "metrics.end_process()"], cwd=ROOT, env=environment, check=True)
    lives = work + "print(metrics.exposition().decode())"
    text = subprocess.run(
        [sys.executable, "-c", lives], cwd=ROOT, env=environment, check=True, capture_output=True
    ).stdout
    assert b"pose_stream_sessions 1.0" in text
    assert b'pose_rejected_total{reason="x"} 2.0' in text
