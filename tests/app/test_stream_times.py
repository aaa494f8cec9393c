"""What counts as a stream's time: a frame's deadline and its waits, and the silence of a client."""

import threading
import time
from types import SimpleNamespace

import pytest
from streams import ONE, answer, ask, eventually, held_poses, open_stream

LEAST_MS = 100.0


def test_a_frame_s_wait_for_the_one_before_it_counts_against_its_deadline(serve):
    server = serve()
    with open_stream(server) as stream, held_poses(server) as held:
        stream.send(ONE)
        assert held.entered.wait(20)
        stream.send(ONE)
        stream.ping().wait(20)  # the pong says that the second frame waits
        threading.Event().wait(1.2)
        vars(server.app.state.settings)["request_deadline_ms"] = 1000  # frozen, and rightly so
        held.release.set()
        first, second = answer(stream), answer(stream)
        assert len(first["people"]) == 1
        assert (second["frame"], second["error"]["status"]) == (1, 504)


def test_an_answer_is_no_silence(serve, monkeypatch):
    """On a clock that stands still but for one long frame."""
    clock = SimpleNamespace(perf_counter=time.perf_counter, monotonic=lambda: now_s)
    monkeypatch.setattr("app.stream.time", clock)
    now_s, server = 0.0, serve(stream_idle_timeout_s=1.0)
    with open_stream(server) as stream:
        with held_poses(server) as held:
            stream.send(ONE)
            assert held.entered.wait(20)
            now_s = 100.0
        assert len(answer(stream)["people"]) == 1
        threading.Event().wait(1.2)  # the service looks at the clock every second
        assert ask(stream, ONE)["frame"] == 1


@pytest.mark.parametrize("network", ["detector", "pose"])
def test_the_wait_for_a_network_counts_as_queue(serve, network):
    server = serve()
    pipeline, go = server.app.state.pipeline, threading.Event()
    batcher = {"detector": pipeline._detect, "pose": pipeline._pose}[network].batcher
    run, begun = batcher._run, threading.Event()

    def held(looks):
        begun.set()
        assert go.wait(20)
        return run(looks)

    batcher._run = held
    with open_stream(server) as first, open_stream(server) as second:
        first.send(ONE)
        assert begun.wait(20)
        second.send(ONE)
        assert eventually(lambda: server.metric("pose_queue_depth", model=network) == 1)
        threading.Event().wait(LEAST_MS / 1e3)
        go.set()
        assert answer(second)["timing_ms"]["queue"] >= LEAST_MS


def test_a_frame_that_a_network_failed_on_is_counted_as_failed(serve):
    server = serve()
    failed = server.metric("pose_stream_frames_total", outcome="failed")

    def broken(crops):
        raise RuntimeError("no")

    server.app.state.pipeline._pose.batcher._run = broken
    with open_stream(server) as stream:
        assert ask(stream, ONE)["error"]["status"] == 500
        assert eventually(lambda: server.metric("pose_stream_frames_total", outcome="failed") == failed + 1)
