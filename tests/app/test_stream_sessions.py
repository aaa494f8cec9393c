"""Who may open a stream and how streams end, against a real server on a real port."""

import base64
import json
import socket
import threading
from contextlib import ExitStack

import pytest
from serving import running
from streams import ONE, answer, ask, close_of, eventually, held_poses, open_stream
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from app.settings import Settings

# --- who may come in -------------------------------------------------------------------------------------------------


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


def test_behind_a_proxy_that_names_the_scheme_s_own_port_the_page_is_still_the_service_s_own(server):
    host, port = server.url.removeprefix("http://").split(":")
    socket_of_ours = socket.create_connection((host, int(port)))
    with connect("ws://pose.example:443/stream", sock=socket_of_ours, origin="https://pose.example") as stream:
        assert len(ask(stream, ONE)["people"]) == 1


def test_a_missing_or_wrong_key_closes_with_1008_and_is_counted(serve):
    server = serve(api_keys="secret")
    wrong = "pose.key." + base64.urlsafe_b64encode(b"wrong").decode().rstrip("=")
    no_base64, no_text = "pose.key.a", "pose.key._w"
    ways = [{}, {"additional_headers": {"X-API-Key": "wrong"}}]
    ways += [{"subprotocols": ["pose.v1", key]} for key in (wrong, no_base64, no_text)]
    counted = server.metric("pose_rejected_total", reason="unauthorized")
    for number, options in enumerate(ways, start=1):
        with open_stream(server, **options) as stream:
            assert close_of(stream)[0] == 1008
        assert server.metric("pose_rejected_total", reason="unauthorized") == counted + number


def test_a_key_is_taken_from_a_header_or_from_a_subprotocol(serve):
    server = serve(api_keys="other,sécret key?")
    key = base64.urlsafe_b64encode("sécret key?".encode()).decode().rstrip("=")
    with open_stream(server, subprotocols=["pose.v1", "pose.key." + key]) as stream:
        assert stream.subprotocol == "pose.v1"
        assert len(ask(stream, ONE)["people"]) == 1
    with open_stream(server, additional_headers={"Authorization": "Bearer other"}) as stream:
        assert len(ask(stream, ONE)["people"]) == 1


@pytest.mark.parametrize(("limit", "reason", "told"), [
    ("stream_max_sessions", "sessions", "too many streams; 2 in all are allowed"),
    ("stream_max_sessions_per_address", "client_sessions", "too many streams of yours; 2 are allowed"),
])  # fmt: skip
def test_too_many_streams_close_with_1013_and_room_is_made_by_leaving(serve, limit, reason, told):
    server = serve(**{limit: 2})
    refused = server.metric("pose_rejected_total", reason=reason)
    with open_stream(server) as first, open_stream(server) as second:
        ask(first, ONE), ask(second, ONE)
        assert server.metric("pose_stream_sessions") == 2
        with open_stream(server) as third:
            assert close_of(third) == (1013, told)
    assert server.metric("pose_rejected_total", reason=reason) == refused + 1
    assert eventually(lambda: server.metric("pose_stream_sessions") == 0)
    assert not server.app.state.stream_sessions._open, "made-up addresses fill no memory"
    with open_stream(server) as stream:
        assert len(ask(stream, ONE)["people"]) == 1


def test_users_behind_one_address_have_room_for_streams_each(serve):
    server = serve(stream_max_sessions_per_address=1, api_keys="one,other")
    first, second, other = ({"X-API-Key": key} for key in ("one", "one", "other"))
    with open_stream(server, additional_headers=first) as stream:
        ask(stream, ONE)
        with open_stream(server, additional_headers=second) as refused:
            assert close_of(refused)[0] == 1013
        with open_stream(server, additional_headers=other) as stream:
            assert len(ask(stream, ONE)["people"]) == 1


@pytest.mark.parametrize("limit", ["stream_max_sessions_per_address", "rate_limit_per_minute"])
def test_an_ipv6_network_counts_as_one_address(serve, limit):
    server = serve(**{limit: 1})
    addresses = ("2606:4700:1:2::1", "2606:4700:1:3::1", "2606:4700:1:2::2")  # a trusted proxy says
    with ExitStack() as streams:
        first, elsewhere, second = (
            streams.enter_context(open_stream(server, additional_headers={"X-Forwarded-For": address}))
            for address in addresses
        )
        ask(first, ONE), ask(elsewhere, ONE)
        assert close_of(second)[0] == 1013


def test_streams_count_against_the_rate_limit(serve):
    server = serve(rate_limit_per_minute=1)
    with open_stream(server) as first, open_stream(server) as second:
        ask(first, ONE)
        assert close_of(second)[0] == 1013


def test_two_keys_behind_one_address_may_open_a_stream_each(serve):
    server = serve(api_keys="first,second", rate_limit_per_minute=1)
    ways = [{"additional_headers": {"X-API-Key": key}} for key in ("first", "second", "first")]
    with ExitStack() as streams:
        first, second, third = (streams.enter_context(open_stream(server, **way)) for way in ways)
        ask(first, ONE), ask(second, ONE)
        assert close_of(third)[0] == 1013


# --- how a stream ends -----------------------------------------------------------------------------------------------


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
    with open_stream(server) as stream:
        assert close_of(stream)[0] == 1012, "at the door, before it sends a frame"


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


def test_a_mistake_of_ours_closes_with_1011_tells_nothing_and_is_counted(serve):
    server = serve()
    counted = server.metric("pose_rejected_total", reason="internal")

    def broken(data, deadline):
        raise KeyError("internals")

    server.app.state.pipeline.opened = broken
    with open_stream(server) as stream:
        stream.send(ONE)
        code, reason = close_of(stream)
    assert code == 1011 and "internals" not in reason
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
