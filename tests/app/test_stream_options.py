"""What a client of /stream may choose, and what the service chooses where it does not."""

import asyncio
import json

import pytest
import tiny
from serving import encoded, picture, running, with_pipeline
from streams import ONE, ask, open_stream

from app.errors import DeadlinePassed
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


@pytest.mark.parametrize(
    ("width", "height", "box"), [(300, 60, (250, 5, 280, 55)), (60, 300, (32, 220, 58, 290))], ids=["wide", "tall"]
)
def test_somebody_at_the_end_of_a_long_frame_is_seen_in_every_one(server, width, height, box):
    frame = encoded(picture(width, height, boxes=(box,)), ".jpg")
    with open_stream(server) as stream:
        assert [[person["id"] for person in ask(stream, frame)["people"]] for _ in range(3)] == [[1]] * 3


def test_a_frame_whose_time_is_up_goes_to_no_network_and_nobody_is_forgotten_for_it(tiny_models):
    image, settings = picture(boxes=((20, 20, 44, 70),)), Settings(provider="cpu", **tiny_models)

    async def followed(pipeline):
        follower, past = Follower(pipeline, settings), asyncio.get_running_loop().time() - 1
        batcher, looks = pipeline._detect.batcher, []
        run = batcher._run
        batcher._run = lambda batch: looks.append(len(batch)) or run(batch)
        with pytest.raises(DeadlinePassed):
            await follower.people(image, 0.0, past)
        assert looks == []
        first, _ = await follower.people(image, 0.1)
        with pytest.raises(DeadlinePassed):
            await follower.people(image, 0.2, past)  # in which only the pose network is asked
        again, stages_ms = await follower.people(image, 0.3)
        assert stages_ms["detect"] == 0
        return [person.id for person in first + again]

    assert with_pipeline(tiny_models, followed) == [1, 1]
