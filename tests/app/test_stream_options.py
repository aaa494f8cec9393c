"""What a client of /stream may choose, and what the service chooses where it does not."""

import json

import pytest
import tiny
from serving import encoded, picture, running, with_pipeline
from streams import ONE, ask, open_stream

from app.following import Follower
from app.settings import Settings

MOVED = encoded(picture(boxes=((24, 20, 48, 70),)), ".jpg")


def test_the_detector_looks_as_often_as_the_client_says(server):
    with open_stream(server) as stream:
        stream.send('{"detect_every": 2}')
        assert [ask(stream, ONE)["timing_ms"]["detect"] > 0 for _ in range(4)] == [True, False, True, False]


@pytest.mark.parametrize("smoothing", [True, False])
def test_a_client_gets_keypoints_smoothed_or_as_the_network_sees_them(server, smoothing):
    with open_stream(server) as fresh:
        as_seen = ask(fresh, MOVED)["people"][0]["keypoints"]
    with open_stream(server) as stream:
        stream.send(json.dumps({"smoothing": smoothing, "detect_every": 1}))
        ask(stream, ONE)
        assert (ask(stream, MOVED)["people"][0]["keypoints"] == as_seen) != smoothing


def test_a_client_who_wants_less_sure_people_gets_those_whom_the_detector_would_not_tell(tiny_models, tmp_path):
    unsure = tiny.make_fixed_detector(tmp_path / "unsure.onnx", 64, [(11, 11, 24, 38)], score=0.2)  # its own least: 0.3
    models = {**tiny_models, "detector_model": unsure}
    with running(Settings(provider="cpu", **models)) as server, open_stream(server) as stream:
        assert ask(stream, ONE)["people"] == []
        stream.send('{"min_score": 0.1}')
        assert [person["id"] for person in ask(stream, ONE)["people"]] == [1]


def test_the_service_s_own_least_score_holds_until_a_client_says_another(serve):
    with open_stream(serve(min_score=0.99)) as stream:
        assert ask(stream, ONE)["people"] == []
        stream.send('{"min_score": 0.1}')
        assert len(ask(stream, ONE)["people"]) == 1
        stream.send('{"min_score": null}')
        assert ask(stream, ONE)["people"] == []


def test_who_is_followed_without_a_client_s_options_has_the_service_s_own_least_score(tiny_models):
    """As benchmarks.tracking does it."""

    async def shown(pipeline):
        settings, image = Settings(provider="cpu", min_score=0.99, **tiny_models), picture(boxes=((20, 20, 44, 70),))
        people, _ = await Follower(pipeline, settings).people(image, 0.0)
        return people

    assert with_pipeline(tiny_models, shown) == []


def test_a_least_score_below_the_detector_s_own_looks_at_once_though_it_is_above_the_service_s(serve):
    """The tiny detector's own is 0.3: whom it was not asked to tell is followed by nobody yet."""
    with open_stream(serve(min_score=0.1, stream_detect_every_frames=1000)) as stream:
        looked = [ask(stream, ONE)["timing_ms"]["detect"] > 0 for _ in range(2)]
        stream.send('{"min_score": 0.2}')
        looked += [ask(stream, ONE)["timing_ms"]["detect"] > 0 for _ in range(2)]
        stream.send('{"min_score": 0.5}')
        looked += [ask(stream, ONE)["timing_ms"]["detect"] > 0]
    assert looked == [True, False, True, False, False]
