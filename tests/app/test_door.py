"""Who may open a stream, against a real server on a real port."""

import base64
import json
import socket
from contextlib import ExitStack

import pytest
from streams import ONE, ask, close_of, eventually, open_stream
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect


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


@pytest.mark.parametrize("named", ["pose.example", "pose.example:443"])
def test_whether_or_not_a_proxy_names_the_scheme_s_own_port_the_page_is_still_the_service_s_own(server, named):
    host, port = server.url.removeprefix("http://").split(":")
    socket_of_ours = socket.create_connection((host, int(port)))
    with connect(f"ws://{named}/stream", sock=socket_of_ours, origin="https://pose.example") as stream:
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
    for text in ("sécret key?", "other"):  # one fills its base64, one does not
        key = base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")
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


def test_users_behind_one_address_have_room_for_streams_each(serve):
    server = serve(stream_max_sessions_per_address=1, api_keys="one,other")
    first, second, other = ({"X-API-Key": key} for key in ("one", "one", "other"))
    with open_stream(server, additional_headers=first) as stream:
        ask(stream, ONE)
        with open_stream(server, additional_headers=second) as refused:
            assert close_of(refused)[0] == 1013
        with open_stream(server, additional_headers=other) as stream:
            assert len(ask(stream, ONE)["people"]) == 1


def test_made_up_keys_are_no_way_round_the_rate_limit_of_a_service_without_keys(serve):
    server = serve(rate_limit_per_minute=1)
    ways = [{"additional_headers": {"X-API-Key": key}} for key in ("first", "second")]
    with open_stream(server, **ways[0]) as first, open_stream(server, **ways[1]) as second:
        ask(first, ONE)
        assert close_of(second)[0] == 1013
