"""The stream, against a real server on a real port, with the tiny networks of tests/tiny.py."""

import json
import threading

import pytest
from serving import encoded, picture
from streams import NOBODY, ONE, TWO, answer, ask, eventually, held_poses, open_stream

from app.skeleton import KEYPOINT_NAMES

IN_CORNERS = ((100, 80, 300, 350), (1300, 60, 1500, 340), (120, 1250, 320, 1500), (1350, 1200, 1550, 1500))


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
