"""Frames, options and messages that /stream does not take, and what becomes of the stream."""

import asyncio
import base64
import threading
from contextlib import asynccontextmanager

import pytest
from streams import ONE, TWO, answer, ask, close_of, eventually, open_stream


@pytest.mark.parametrize(
    ("data", "status"),
    [(b"", 400), (b"GIF89a", 415), (ONE[:200], 400), (b"\xff\xd8\xff" + bytes(100), 400)],
    ids=["empty", "no picture", "truncated", "garbage with a JPEG's first bytes"],
)
def test_a_bad_frame_is_an_error_message_and_the_next_frame_works(server, data, status):
    bad_before = server.metric("pose_stream_frames_total", outcome="bad")
    with open_stream(server) as stream:
        refused = ask(stream, data)
        assert set(refused) == {"error", "frame"} and refused["frame"] == 0
        assert set(refused["error"]) == {"type", "title", "status", "detail", "reason"}
        assert refused["error"]["status"] == status
        good = ask(stream, ONE)
    assert (good["frame"], len(good["people"])) == (1, 1)
    assert server.metric("pose_stream_frames_total", outcome="bad") == bad_before + 1


def test_a_frame_of_too_many_pixels_is_refused(serve):
    with open_stream(serve(max_pixels=1000)) as stream:
        assert ask(stream, ONE)["error"]["status"] == 413


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ('{"colour": "red"}', "colour"),
        ('{"min_score": NaN}', "min_score"),
        ('{"min_score": 2}', "min_score"),
        ('{"max_people": 0}', "max_people"),
        ('{"max_people": 51}', "max_people"),
        ('{"max_people": "3"}', "max_people"),
        ('{"detect_every": 0}', "detect_every"),
        ('{"tiles": 0}', "tiles"),
        ('{"tiles": 5}', "tiles"),
        ('{"smoothing": 1}', "smoothing"),
        ("[]", ""),
        ("5", ""),
    ],
)
def test_bad_options_are_an_error_message_and_change_nothing(server, options, named):
    with open_stream(server) as stream:
        stream.send(options)
        refused = answer(stream)
        assert refused["frame"] is None and refused["error"]["status"] == 422
        assert named in refused["error"]["detail"]
        assert len(ask(stream, TWO)["people"]) == 2


def test_options_stay_until_they_are_changed(server):
    with open_stream(server) as stream:
        stream.send('{"max_people": 1}')
        stream.send('{"smoothing": false, "detect_every": 1}')
        assert len(ask(stream, TWO)["people"]) == 1
        stream.send('{"max_people": null}')
        assert len(ask(stream, TWO)["people"]) == 2
        stream.send('{"min_score": 0.99}')
        assert ask(stream, TWO)["people"] == []


@pytest.mark.parametrize("text", ["hello", "", "{", base64.b64encode(ONE).decode(), "[" * 3000])
def test_text_that_is_not_json_closes_with_1003(server, text):
    with open_stream(server) as stream:
        stream.send(text)
        assert close_of(stream)[0] == 1003


def test_options_longer_than_any_are_not_read(server):
    """A million keys would keep the event loop, and all other clients, waiting for seconds."""
    with open_stream(server) as stream:
        stream.send('{"smoothing": true}' + " " * (10_000 - 19))
        assert len(ask(stream, TWO)["people"]) == 2
        stream.send('{"smoothing": true}' + " " * (10_001 - 19))
        code, reason = close_of(stream)
        assert code == 1003 and "10000 characters" in reason


def test_an_oversized_message_closes_with_1009(serve):
    server = serve(stream_max_message_bytes=2000)
    for message in (bytes(2001), "x" * 2001, [bytes(1500), bytes(1500)]):  # the last in fragments
        with open_stream(server) as stream:
            stream.send(message)
            assert close_of(stream)[0] == 1009


def test_a_full_queue_is_an_error_message_and_the_stream_goes_on(serve):
    server = serve(max_waiting=50)
    room = server.app.state.pipeline.workers._room
    with open_stream(server) as stream:
        ask(stream, ONE)
        room._free, room._max_waiting, was = 0, 0, (room._free, room._max_waiting)  # as if all threads were busy
        refused = ask(stream, ONE)
        assert (refused["frame"], refused["error"]["status"]) == (1, 503)
        room._free, room._max_waiting = was
        assert [person["id"] for person in ask(stream, ONE)["people"]] == [1]
    assert server.metric("pose_stream_frames_total", outcome="overloaded") >= 1


def test_a_failing_network_is_an_error_message_and_the_stream_goes_on(serve):
    server = serve()
    batcher = server.app.state.pipeline._pose.batcher
    run = batcher._run

    def broken(crops):
        raise RuntimeError("no")

    with open_stream(server) as stream:
        ask(stream, ONE)
        batcher._run = broken
        assert ask(stream, ONE)["error"]["status"] == 500
        batcher._run = run
        assert [person["id"] for person in ask(stream, ONE)["people"]] == [1]


def test_a_frame_that_waited_too_long_is_an_error_message_and_the_stream_goes_on(serve):
    server = serve()
    pipeline, settings = server.app.state.pipeline, server.app.state.settings
    release, decoding, opened = threading.Event(), [], pipeline.opened
    overloaded = server.metric("pose_stream_frames_total", outcome="overloaded")
    refused = server.metric("pose_rejected_total", reason="deadline")

    @asynccontextmanager
    async def held(data, deadline):
        decoding.append(data)
        await asyncio.to_thread(release.wait, 20)
        async with opened(data, deadline) as picture:
            yield picture

    pipeline.opened = held
    with open_stream(server) as stream:
        stream.send(b"GIF89a")
        assert eventually(lambda: decoding == [b"GIF89a"])
        usual_ms = settings.request_deadline_ms
        vars(settings)["request_deadline_ms"] = 0  # frozen, and rightly so: any wait is too long from here on
        stream.send(ONE)
        stream.ping().wait(20)  # the pong says that the second frame waits
        release.set()
        late = [answer(stream), answer(stream)]
        assert [(found["frame"], found["error"]["status"]) for found in late] == [(0, 415), (1, 504)]
        assert decoding == [b"GIF89a"], "no work is done on a frame that is too old already"
        vars(settings)["request_deadline_ms"] = usual_ms
        assert [person["id"] for person in ask(stream, ONE)["people"]] == [1]
    assert server.metric("pose_stream_frames_total", outcome="overloaded") == overloaded + 1
    assert server.metric("pose_rejected_total", reason="deadline") == refused + 1
