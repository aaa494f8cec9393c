"""How streams end, and what is counted and logged of them, against a real server on a real port."""

import asyncio
import socket
import threading
from contextlib import ExitStack

import pytest
from serving import running
from streams import ONE, answer, ask, close_of, eventually, held_poses, open_stream
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from app.door import End, noted
from app.settings import Settings


def test_an_idle_stream_closes_with_1001(serve):
    with open_stream(serve(stream_idle_timeout_s=0.2)) as stream:
        code, reason = close_of(stream)
    assert code == 1001 and "no message" in reason


def test_who_waits_for_an_answer_is_not_idle(serve):
    server = serve(stream_idle_timeout_s=0.3)
    with held_poses(server) as held, open_stream(server) as stream:
        stream.send(ONE)
        assert held.entered.wait(20)
        threading.Event().wait(1)  # three times as long as anybody may be silent
        held.release.set()
        assert len(answer(stream)["people"]) == 1
        assert close_of(stream)[0] == 1001


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


def test_a_service_that_is_to_stop_closes_with_1012_at_the_next_frame_and_lets_nobody_stay(serve):
    server = serve()
    with open_stream(server) as stream:
        ask(stream, ONE)
        server.app.state.pipeline.drain()
        stream.send(ONE)
        assert close_of(stream)[0] == 1012
    refused = server.metric("pose_rejected_total", reason="draining")
    with open_stream(server) as stream:
        assert close_of(stream)[0] == 1012, "at the door, before it sends a frame"
    assert server.metric("pose_rejected_total", reason="draining") == refused + 1


def test_every_stream_that_ends_says_why_and_how_many_frames_it_had(serve, caplog):
    caplog.set_level("INFO", "app.stream")
    server = serve(stream_idle_timeout_s=0.3)
    with open_stream(server) as stream:
        ask(stream, ONE), ask(stream, ONE), ask(stream, b"no picture")
        assert close_of(stream)[0] == 1001
    with open_stream(server) as stream:
        ask(stream, ONE)
    assert eventually(lambda: server.metric("pose_stream_sessions") == 0)
    ended = [vars(record) for record in caplog.records if record.message == "stream ended"]
    assert [(line["why"], line["received"], line["answered"], line["client"]) for line in ended] == [
        ("1001: no message for 0.3 seconds", 3, 2, "127.0.0.1"),
        ("1000: the connection closed", 1, 1, "127.0.0.1"),
    ]


@pytest.mark.parametrize("gone", [False, True])
def test_the_end_of_a_stream_is_not_said_for_long_nor_to_who_is_gone(gone):
    class Client:
        async def close(self, code, reason):
            if gone:
                raise RuntimeError
            await asyncio.Event().wait()

    asyncio.run(asyncio.wait_for(End(1001, "too old").say(Client(), 0.05), 20))


def test_a_stream_that_the_process_does_not_outlive_is_said_to_be_cut_off(caplog):
    caplog.set_level("INFO", "app.stream")
    with pytest.raises(asyncio.CancelledError), noted("198.51.100.7"):
        raise asyncio.CancelledError
    assert [vars(line)["why"] for line in caplog.records] == ["cut off: the process ends"]


def test_who_may_not_come_in_is_logged_with_the_reason_and_without_the_address_that_was_asked_for(serve, caplog):
    caplog.set_level("INFO")
    server = serve(api_keys="secret")
    with connect(server.url.replace("http", "ws") + "/stream?key=wrong") as stream:
        assert close_of(stream)[0] == 1008
    with pytest.raises(InvalidStatus):
        open_stream(server, origin="https://evil.example")
    assert eventually(lambda: "stream ended" in caplog.text)
    lines = [(line.message, vars(line).get("why"), vars(line).get("origin")) for line in caplog.records]
    assert ("stream ended", "1008: API key missing or wrong", None) in lines
    assert ("stream refused: a foreign origin", None, "https://evil.example") in lines
    assert "key=wrong" not in caplog.text
    assert not [line for line in caplog.records if line.levelname == "ERROR"]


def test_a_mistake_of_ours_closes_with_1011_tells_nothing_and_is_counted(serve, caplog):
    caplog.set_level("INFO", "app.stream")
    server = serve()
    counted = server.metric("pose_rejected_total", reason="internal")

    def broken(data, deadline):
        raise KeyError("internals")

    server.app.state.pipeline.opened = broken
    with open_stream(server) as stream:
        stream.send(ONE)
        code, reason = close_of(stream)
    assert code == 1011 and "internals" not in reason
    assert [vars(line)["why"] for line in caplog.records if line.message == "stream ended"] == ["1011: our mistake"]
    assert server.metric("pose_rejected_total", reason="internal") == counted + 1


def test_a_client_who_vanishes_in_mid_frame_leaves_nothing_behind(serve):
    server = serve()
    abandoned = server.metric("pose_stream_frames_total", outcome="abandoned")
    with held_poses(server) as held, open_stream(server) as stream:
        stream.send(ONE)
        assert held.entered.wait(20)
        stream.send(ONE)
        stream.ping().wait(20)  # the pong says that the second frame waits
        stream.socket.shutdown(socket.SHUT_RDWR)  # no closing handshake: the cable is cut
        assert eventually(lambda: server.metric("pose_stream_sessions") == 0)
    assert server.metric("pose_stream_frames_total", outcome="abandoned") == abandoned + 2
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
            return False
        except BlockingIOError:  # the server has stopped to read, as it should
            return False
        except OSError:
            return True

    assert eventually(cut_off), "the connection is reset, though nobody reads it"
    assert eventually(lambda: server.metric("pose_stream_sessions") == 0)
    deaf.close()
    with open_stream(server) as other:
        assert len(ask(other, ONE)["people"]) == 1


def test_frames_and_sessions_are_counted(serve):
    server = serve()
    before = server.metric("pose_stream_frames_total", outcome="answered")
    ages = server.metric("pose_stream_frame_age_seconds_count")
    people = server.metric("pose_people_per_image_sum")
    with open_stream(server) as stream:
        for _ in range(3):
            ask(stream, ONE)
        assert eventually(lambda: server.metric("pose_stream_frames_total", outcome="answered") == before + 3)
        assert server.metric("pose_stream_sessions") == 1
    assert server.metric("pose_stream_frame_age_seconds_count") == ages + 3
    assert server.metric("pose_people_per_image_sum") == people + 3


@pytest.mark.parametrize(("send", "code", "reason"), [
    (lambda stream: stream.send(bytes(4_000_001)), 1009, "protocol"),
    (lambda stream: stream.send(b"\xff", text=True), 1007, "protocol"),
    (lambda stream: stream.send("no JSON"), 1003, "bad_parameter"),
])  # fmt: skip
def test_a_stream_that_is_closed_for_what_it_sent_is_counted(server, send, code, reason):
    """A camera that comes back with the same for ever would not be seen anywhere."""
    before = server.metric("pose_rejected_total", reason=reason)
    with open_stream(server) as stream:
        send(stream)
        assert close_of(stream)[0] == code
    assert eventually(lambda: server.metric("pose_rejected_total", reason=reason) == before + 1)


def test_what_a_client_closes_with_is_its_own_affair(server):
    before = server.metric("pose_rejected_total", reason="protocol")
    with open_stream(server) as stream:
        ask(stream, ONE)
        stream.close(1009, "your answers are too long for me")
    assert eventually(lambda: server.metric("pose_stream_sessions") == 0)
    assert server.metric("pose_rejected_total", reason="protocol") == before


def test_a_stream_at_another_path_is_not_found_and_one_without_websocket_is_told_what_it_needs(server):
    with pytest.raises(InvalidStatus) as refused, connect(server.url.replace("http", "ws") + "/no/stream"):
        pass
    assert refused.value.response.status_code == 404
    answer = server.client.get("/stream")
    assert (answer.status_code, answer.headers["upgrade"]) == (426, "websocket")
    assert answer.headers["content-type"] == "application/problem+json"
