"""The stream, against a real server on a real port, with the tiny networks of tests/tiny.py."""

import asyncio
import base64
import json
import threading
from contextlib import asynccontextmanager

import pytest
from serving import encoded, picture
from streams import NOBODY, ONE, TWO, answer, ask, close_of, eventually, held_poses, open_stream

from app.skeleton import KEYPOINT_NAMES

IN_CORNERS = ((100, 80, 300, 350), (1300, 60, 1500, 340), (120, 1250, 320, 1500), (1350, 1200, 1550, 1500))

# --- frames ----------------------------------------------------------------------------------------------------------


def test_a_frame_is_answered_with_its_people(server):
    with open_stream(server) as stream:
        found = ask(stream, ONE)
    assert set(found) == {"frame", "image", "people", "timing_ms", "age_ms", "dropped"}
    assert (found["frame"], found["image"], found["dropped"]) == (0, {"width": 120, "height": 90}, 0)
    (person,) = found["people"]
    assert set(person) == {"id", "score", "box", "keypoints"} and person["id"] == 1
    assert person["box"] == pytest.approx([20, 20, 44, 70], abs=3)
    assert [point["name"] for point in person["keypoints"]] == list(KEYPOINT_NAMES)
    assert set(person["keypoints"][0]) == {"name", "x", "y", "score"}
    assert set(found["timing_ms"]) == {"decode", "queue", "detect", "pose", "total"}
    assert found["age_ms"] >= found["timing_ms"]["total"] > 0


def test_frames_are_numbered_as_received_and_people_keep_their_ids(server):
    with open_stream(server) as stream:
        answers = [ask(stream, TWO) for _ in range(4)]
    assert [found["frame"] for found in answers] == [0, 1, 2, 3]
    assert [[person["id"] for person in found["people"]] for found in answers] == [[1, 2]] * 4


def test_nobody_in_a_frame_is_an_empty_list(server):
    with open_stream(server) as stream:
        assert ask(stream, NOBODY)["people"] == []


def test_the_detector_rests_while_everyone_is_followed_and_runs_when_asked(serve):
    server = serve(stream_detect_every_frames=1000)
    with open_stream(server) as stream:
        detected = [ask(stream, ONE)["timing_ms"]["detect"] > 0 for _ in range(3)]
        stream.send(json.dumps({"detect": True}))
        detected += [ask(stream, ONE)["timing_ms"]["detect"] > 0 for _ in range(2)]
        stream.send(json.dumps({"max_people": 1}))
        detected += [ask(stream, ONE)["timing_ms"]["detect"] > 0]
    assert detected == [True, False, False, True, False, False]


def test_the_detector_looks_after_a_silence_of_the_client_but_not_because_the_service_was_slow(serve, monkeypatch):
    """Else streams that wait for one another would send every frame through the detector, and wait for ever."""
    monkeypatch.setattr("app.stream.PAUSE_S", 0.0)  # any silence is one
    server = serve(stream_detect_every_frames=1000)
    with open_stream(server) as stream:
        detected = [ask(stream, ONE)["timing_ms"]["detect"] > 0 for _ in range(2)]
        with held_poses(server) as held:
            stream.send(ONE)
            assert held.entered.wait(20)
            stream.send(ONE)
            assert "error" in ask(stream, {"tiles": 99}), "what was sent before this has been received"
        detected += [answer(stream)["timing_ms"]["detect"] > 0 for _ in range(2)]
        detected += [ask(stream, ONE)["timing_ms"]["detect"] > 0]
    assert detected == [True, True, True, False, True]


def test_frames_that_show_nothing_are_silence(serve, monkeypatch):
    monkeypatch.setattr("app.stream.PAUSE_S", 0.3)
    server = serve(stream_detect_every_frames=1000)
    with open_stream(server) as stream:
        ask(stream, ONE)
        for _ in range(5):
            assert "error" in ask(stream, b"no picture")
            threading.Event().wait(0.08)
        assert ask(stream, ONE)["timing_ms"]["detect"] > 0


def test_a_large_frame_is_looked_at_in_tiles_when_the_client_or_the_service_says_so(server, serve):
    frame = encoded(picture(1600, 1600, boxes=IN_CORNERS), ".jpg")

    def boxes(stream):
        return [person["box"] for person in ask(stream, frame)["people"]]

    with open_stream(server) as whole, open_stream(server) as asked, open_stream(serve(stream_tiles=2)) as by_default:
        asked.send('{"tiles": 2}')
        looked = [boxes(stream) for stream in (whole, asked, by_default)]
        assert all(y2 - y1 > 1000 for _, y1, _, y2 in looked[0]), "the tiny detector boxes each half's people together"
        for found in looked[1:]:
            assert sum(y2 - y1 < 500 for _, y1, _, y2 in found) == len(IN_CORNERS)
        before = server.metric("pose_batch_size_sum", model="detector")
        asked.send('{"tiles": null, "detect": true}')
        boxes(asked)
        assert server.metric("pose_batch_size_sum", model="detector") - before == 1, "the service's own number again"


def test_a_stream_gets_no_more_tiles_than_the_service_allows(serve):
    with open_stream(serve(tiles=2, max_tiles=2)) as stream:
        stream.send('{"tiles": 3}')
        assert answer(stream)["error"]["detail"] == "tiles: at most 2 here"


def test_two_clients_never_share_people(server):
    with open_stream(server) as ours, open_stream(server) as theirs:
        assert [person["id"] for person in ask(ours, TWO)["people"]] == [1, 2]
        assert [person["id"] for person in ask(theirs, ONE)["people"]] == [1]
        assert [person["id"] for person in ask(ours, TWO)["people"]] == [1, 2]


def test_a_turned_phone_starts_with_new_people(server):
    with open_stream(server) as stream:
        ask(stream, ONE)
        turned = ask(stream, encoded(picture(90, 120, ((10, 20, 34, 70),)), ".jpg"))
    assert [person["id"] for person in turned["people"]] == [2]


def test_the_newest_frame_wins_and_the_dropped_ones_are_counted(serve):
    server = serve()
    with held_poses(server) as held, open_stream(server) as stream:
        stream.send(ONE)
        assert held.entered.wait(20)
        for _ in range(5):
            stream.send(ONE)
        stream.ping().wait(20)  # the pong says that the server has read all of them
        assert eventually(lambda: server.metric("pose_stream_frames_total", outcome="dropped") >= 4)
        held.release.set()
        first, newest = answer(stream), answer(stream)
    assert (first["frame"], newest["frame"], newest["dropped"]) == (0, 5, 4)


@pytest.mark.parametrize("later", [[TWO], [TWO, TWO, TWO]], ids=["next", "next one dropped"])
def test_options_sent_while_a_frame_is_worked_on_hold_for_the_next(serve, later):
    server = serve(stream_detect_every_frames=1000)
    with open_stream(server) as stream:
        assert len(ask(stream, ONE)["people"]) == 1
        with held_poses(server) as held:
            stream.send(ONE)
            assert held.entered.wait(20)
            stream.send(json.dumps({"detect": True, "min_score": 0.0}))
            for frame in later:
                stream.send(frame)
            stream.ping().wait(20)  # the pong says that the server has read all of them
            held.release.set()
            found = [answer(stream), answer(stream)]
    assert [len(one["people"]) for one in found] == [1, 2]
    assert found[0]["timing_ms"]["detect"] == 0 < found[1]["timing_ms"]["detect"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"max_people": 1}, {"max_people": None}),
        ({"min_score": 0.99}, {"min_score": 0.1}),
        ({"tiles": 1}, {"tiles": 2}),
    ],
    ids=["more people", "less sure ones", "smaller ones"],
)
def test_whoever_is_wanted_from_now_on_is_looked_for_in_the_next_frame(serve, before, after):
    frame = encoded(picture(1600, 1600, boxes=IN_CORNERS), ".jpg")
    with open_stream(serve(stream_detect_every_frames=1000)) as stream:
        stream.send(json.dumps(before))
        few = [len(ask(stream, frame)["people"]) for _ in range(3)][-1]
        stream.send(json.dumps(after))
        assert len(ask(stream, frame)["people"]) > few


def test_a_frame_waits_for_a_place_before_it_is_decoded(serve):
    """Decoded pictures of streams and of POST /pose are bounded together."""
    server = serve()
    pipeline = server.app.state.pipeline
    with open_stream(server) as stream:
        pipeline._places._small._free = 0  # as if others held every place
        stream.send(ONE)
        assert eventually(lambda: server.metric("pose_queue_depth", model="place") == 1)
    assert eventually(lambda: server.metric("pose_queue_depth", model="place") == 0)


# --- bad input -------------------------------------------------------------------------------------------------------


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
        assert set(refused["error"]) == {"type", "title", "status", "detail"}
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
