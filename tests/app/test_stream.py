"""The stream, against a real server on a real port, with the tiny networks of tests/tiny.py."""

import asyncio
import base64
import json
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
from serving import Server, encoded, picture, running
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from app.settings import Settings
from app.skeleton import KEYPOINT_NAMES

ONE = encoded(picture(boxes=((20, 20, 44, 70),)), ".jpg")
TWO = encoded(picture(boxes=((15, 20, 40, 70), (80, 20, 104, 70))), ".webp")
NOBODY = encoded(picture(), ".jpg")


@pytest.fixture
def serve(tiny_models):
    """Starts a service with other settings than the shared one's; it stops with the test."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(running(Settings(provider="cpu", **tiny_models, **settings)))


def open_stream(server: Server, **options: Any) -> ClientConnection:
    return connect(server.url.replace("http", "ws") + "/stream", compression=None, open_timeout=20, **options)


def answer(stream: ClientConnection) -> dict[str, Any]:
    return json.loads(stream.recv(timeout=20))


def ask(stream: ClientConnection, message: bytes | dict[str, Any]) -> dict[str, Any]:
    stream.send(message if isinstance(message, bytes) else json.dumps(message))
    return answer(stream)


def close_of(stream: ClientConnection) -> tuple[int, str]:
    """Read until the server closes; its code and reason."""
    with pytest.raises(ConnectionClosed) as closed:
        while True:
            stream.recv(timeout=20)
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code, closed.value.rcvd.reason


def eventually(condition: Callable[[], bool], seconds: float = 20) -> bool:
    """Whether `condition` comes true: polled, so as long as needed and no longer."""
    pause = threading.Event()
    return any(condition() or pause.wait(0.02) for _ in range(int(seconds / 0.02)))


# --- frames ---------------------------------------------------------------------------------------------------------


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
    assert detected == [True, False, False, True, False]


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
    release, entered = threading.Event(), threading.Event()
    run = server.app.state.pipeline.pose_network.run

    def held(crops):  # the network is busy until the test has sent its frames
        entered.set()
        release.wait(20)
        return run(crops)

    server.app.state.pipeline._pose_batcher._run = held
    with open_stream(server) as stream:
        stream.send(ONE)
        assert entered.wait(20)
        for _ in range(5):
            stream.send(ONE)
        stream.ping().wait(20)  # the pong says that the server has read all of them
        assert eventually(lambda: server.metric("pose_stream_frames_total", outcome="dropped") >= 4)
        release.set()
        first, newest = answer(stream), answer(stream)
    assert (first["frame"], newest["frame"], newest["dropped"]) == (0, 5, 4)


# --- bad input ------------------------------------------------------------------------------------------------------


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


def test_an_oversized_message_closes_with_1009(serve):
    server = serve(stream_max_message_bytes=2000)
    for message in (bytes(2001), "x" * 2001):
        with open_stream(server) as stream:
            stream.send(message)
            assert close_of(stream)[0] == 1009


def test_a_full_queue_is_an_error_message_and_the_stream_goes_on(serve):
    server = serve(max_waiting=50)
    pipeline = server.app.state.pipeline
    with open_stream(server) as stream:
        ask(stream, ONE)
        pipeline._in_pool += 50  # as if fifty pictures were being worked on
        refused = ask(stream, ONE)
        assert (refused["frame"], refused["error"]["status"]) == (1, 503)
        pipeline._in_pool -= 50
        assert [person["id"] for person in ask(stream, ONE)["people"]] == [1]
    assert server.metric("pose_stream_frames_total", outcome="overloaded") >= 1


def test_a_failing_network_is_an_error_message_and_the_stream_goes_on(serve):
    server = serve()
    batcher = server.app.state.pipeline._pose_batcher
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
    release, decoding, decode = threading.Event(), [], pipeline.decode
    overloaded = server.metric("pose_stream_frames_total", outcome="overloaded")
    refused = server.metric("pose_rejected_total", reason="deadline")

    async def held(data):
        decoding.append(data)
        await asyncio.to_thread(release.wait, 20)
        return await decode(data)

    pipeline.decode = held
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


# --- who may come in ------------------------------------------------------------------------------------------------


def test_a_foreign_origin_is_refused_before_the_handshake(server):
    for origin in ("https://evil.example", "null", "http://127.0.0.1:1", "http://127.0.0.1:x"):
        with pytest.raises(InvalidStatus) as refused:
            open_stream(server, origin=origin)
        assert refused.value.response.status_code == 403
        assert json.loads(refused.value.response.body)["title"] == "Origin not allowed"
    assert server.metric("pose_rejected_total", reason="origin") >= 4


def test_the_services_own_page_may_open_a_stream(server):
    with open_stream(server, origin=server.url) as stream:
        assert len(ask(stream, ONE)["people"]) == 1


def test_allowed_origins_may_open_streams(serve):
    server = serve(stream_allowed_origins="https://a.example, https://b.example")
    with open_stream(server, origin="https://b.example") as stream:
        assert len(ask(stream, ONE)["people"]) == 1
    with open_stream(serve(stream_allowed_origins="*"), origin="https://c.example") as stream:
        assert len(ask(stream, ONE)["people"]) == 1


def test_a_missing_or_wrong_key_closes_with_1008(serve):
    server = serve(api_keys="secret")
    subprotocols = ["pose.v1", "pose.key." + base64.urlsafe_b64encode(b"wrong").decode().rstrip("=")]
    for options in ({}, {"additional_headers": {"X-API-Key": "wrong"}}, {"subprotocols": subprotocols}):
        with open_stream(server, **options) as stream:
            assert close_of(stream)[0] == 1008


def test_a_key_is_taken_from_a_header_or_from_a_subprotocol(serve):
    server = serve(api_keys="other,sécret key?")
    key = base64.urlsafe_b64encode("sécret key?".encode()).decode().rstrip("=")
    with open_stream(server, subprotocols=["pose.v1", "pose.key." + key]) as stream:
        assert stream.subprotocol == "pose.v1"
        assert len(ask(stream, ONE)["people"]) == 1
    with open_stream(server, additional_headers={"Authorization": "Bearer other"}) as stream:
        assert len(ask(stream, ONE)["people"]) == 1


def test_too_many_streams_close_with_1013_and_room_is_made_by_leaving(serve):
    server = serve(stream_max_sessions_per_address=2)
    with open_stream(server) as first, open_stream(server) as second:
        ask(first, ONE), ask(second, ONE)
        assert server.metric("pose_stream_sessions") == 2
        with open_stream(server) as third:
            assert close_of(third)[0] == 1013
    assert eventually(lambda: server.metric("pose_stream_sessions") == 0)
    with open_stream(server) as stream:
        assert len(ask(stream, ONE)["people"]) == 1


def test_streams_count_against_the_rate_limit(serve):
    server = serve(rate_limit_per_minute=1)
    with open_stream(server) as first, open_stream(server) as second:
        ask(first, ONE)
        assert close_of(second)[0] == 1013


# --- how a stream ends ----------------------------------------------------------------------------------------------


def test_an_idle_stream_closes_with_1001(serve):
    with open_stream(serve(stream_idle_timeout_s=0.2)) as stream:
        code, reason = close_of(stream)
    assert code == 1001 and "no message" in reason


def test_an_old_stream_closes_with_1001(serve):
    with open_stream(serve(stream_max_age_s=0.3)) as stream:
        ask(stream, ONE)
        code, reason = close_of(stream)
    assert code == 1001 and "connect again" in reason


def test_a_restart_closes_with_1012(tiny_models):
    with ExitStack() as service, ExitStack() as client:
        server = service.enter_context(running(Settings(provider="cpu", **tiny_models)))
        stream = client.enter_context(open_stream(server))
        ask(stream, ONE)
        service.close()
        assert close_of(stream)[0] == 1012


def test_a_mistake_of_ours_closes_with_1011_and_tells_nothing(serve):
    server = serve()

    async def broken(data):
        raise KeyError("internals")

    server.app.state.pipeline.decode = broken
    with open_stream(server) as stream:
        stream.send(ONE)
        code, reason = close_of(stream)
    assert code == 1011 and "internals" not in reason


def test_a_client_who_vanishes_in_mid_frame_leaves_nothing_behind(serve):
    server = serve()
    release, entered = threading.Event(), threading.Event()
    batcher = server.app.state.pipeline._pose_batcher
    run = batcher._run

    def held(crops):
        entered.set()
        release.wait(20)
        return run(crops)

    batcher._run = held
    with open_stream(server) as stream:
        stream.send(ONE)
        assert entered.wait(20)
        stream.socket.shutdown(socket.SHUT_RDWR)  # no closing handshake: the cable is cut
        assert eventually(lambda: server.metric("pose_stream_sessions") == 0)
        release.set()
    with open_stream(server) as other:
        assert len(ask(other, ONE)["people"]) == 1


def test_a_client_who_does_not_read_is_cut_off(serve):
    server = serve(stream_send_timeout_s=0.3, stream_idle_timeout_s=300)
    host, port = server.url.removeprefix("http://").split(":")
    deaf = socket.socket()
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    deaf.connect((host, int(port)))
    deaf.settimeout(20)
    handshake = (
        f"GET /stream HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    deaf.sendall(handshake.encode())
    assert deaf.recv(1000).startswith(b"HTTP/1.1 101")
    text = b'{"%s": 1}' % (b"x" * 900)  # its answer is longer than the question
    message = b"\x81\xfe" + len(text).to_bytes(2, "big") + bytes(4) + text
    deaf.setblocking(False)

    def cut_off() -> bool:
        try:
            for _ in range(200):
                deaf.send(message)
        except BlockingIOError:
            pass  # the server has stopped to read, as it should
        except OSError:
            return True
        return False

    assert eventually(cut_off), "the connection is reset, though nobody reads it"
    assert eventually(lambda: server.metric("pose_stream_sessions") == 0)
    deaf.close()
    with open_stream(server) as other:
        assert len(ask(other, ONE)["people"]) == 1


def test_frames_and_sessions_are_counted(serve):
    server = serve()
    before = server.metric("pose_stream_frames_total", outcome="answered")
    ages = server.metric("pose_stream_frame_age_seconds_count")
    with open_stream(server) as stream:
        for _ in range(3):
            ask(stream, ONE)
        assert eventually(lambda: server.metric("pose_stream_frames_total", outcome="answered") == before + 3)
        assert server.metric("pose_stream_sessions") == 1
    assert server.metric("pose_stream_frame_age_seconds_count") == ages + 3
