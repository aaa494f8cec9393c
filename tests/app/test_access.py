"""Keys and the rate limit."""

from pathlib import Path

import pytest
from serving import running

from app.access import RateLimit, check_key, client_of, given_key
from app.errors import RateLimited, Unauthorized
from app.settings import Settings


@pytest.mark.parametrize("headers, key", [
    ({"x-api-key": "k"}, "k"), ({"authorization": "Bearer k"}, "k"), ({"authorization": "bearer  k "}, "k"),
    ({"authorization": "Basic k"}, ""), ({"authorization": "k"}, ""), ({}, ""),
])  # fmt: skip
def test_a_key_is_read_from_either_header(headers: dict[str, str], key: str) -> None:
    assert given_key(headers) == key


def test_without_configured_keys_everybody_may_ask() -> None:
    check_key("", ())
    check_key("anything", ())


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
def test_a_key_of_any_letters_is_known_whichever_bytes_the_client_makes_of_them(encoding: str) -> None:
    check_key("schlüssel".encode(encoding).decode("latin-1"), ("other", "schlüssel"))  # as headers are read
    check_key("ключ", ("ключ",))  # as a WebSocket's subprotocol says it
    check_key("ключ".encode().decode("latin-1"), ("ключ",))
    twice = "ключ".encode().decode("latin-1").encode()  # as WebKitGTK sends what the page's script made UTF-8
    check_key(twice.decode("latin-1"), ("ключ",))
    with pytest.raises(Unauthorized):
        check_key("schlussel", ("schlüssel",))


@pytest.mark.parametrize("key", ["", "wrong", "righ", "rightt", "é"])
def test_a_wrong_key_is_refused(key: str) -> None:
    check_key("right", ("other", "right"))
    with pytest.raises(Unauthorized):
        check_key(key, ("other", "right"))


@pytest.mark.parametrize(("address", "client"), [
    ("198.51.100.7", "198.51.100.7"), ("10.0.0.7", "10.0.0.7"), ("unknown", "unknown"),
    ("2606:4700:1:2:3:4:5:6", "2606:4700:1:2::/64"), ("2606:4700:1:2::1", "2606:4700:1:2::/64"),
    ("2606:4700:1:3::1", "2606:4700:1:3::/64"), ("::ffff:93.184.215.14", "93.184.215.14"),
    ("::1", "::1"), ("fd00::5", "fd00::5"), ("fe80::5%eth0", "fe80::5%eth0"),
])  # fmt: skip
def test_one_client_is_an_address_or_the_network_that_an_ipv6_connection_comes_with(address: str, client: str) -> None:
    assert client_of(address) == client


def test_an_ipv6_network_asks_as_often_as_one_client(tiny_models: dict[str, Path]) -> None:
    with running(Settings(provider="cpu", rate_limit_per_minute=1, **tiny_models)) as server:  # type: ignore[arg-type]
        answers = [
            server.client.post("/pose", headers={"X-Forwarded-For": address}).status_code  # a trusted proxy says
            for address in ("2606:4700:1:2::1", "2606:4700:1:2::2", "2606:4700:1:3::1")
        ]
    assert answers == [400, 429, 400]  # no picture


def test_the_rate_limit_refills_with_time() -> None:
    limit = RateLimit(60)
    for _ in range(60):
        limit.take("a", now_s=0)
    with pytest.raises(RateLimited) as refused:
        limit.take("a", now_s=0)
    assert refused.value.retry_after_s in (1, 2)
    limit.take("b", now_s=0)
    limit.take("a", now_s=1)
    with pytest.raises(RateLimited):
        limit.take("a", now_s=1)


def test_who_was_silent_for_an_hour_may_not_ask_an_hour_s_worth_at_once() -> None:
    limit = RateLimit(2)
    limit.take("a", now_s=0)
    for _ in range(2):
        limit.take("a", now_s=3600)
    with pytest.raises(RateLimited):
        limit.take("a", now_s=3600)


def test_coming_back_when_told_works() -> None:
    limit = RateLimit(1)
    limit.take("a", now_s=0)
    with pytest.raises(RateLimited) as refused:
        limit.take("a", now_s=20)
    assert refused.value.retry_after_s is not None
    limit.take("a", now_s=20 + refused.value.retry_after_s)


def test_made_up_clients_do_not_fill_the_memory() -> None:
    limit = RateLimit(1, max_clients=10)
    for number in range(1000):
        limit.take(str(number), now_s=0)
    assert len(limit._buckets) == 10


def test_made_up_clients_push_out_whoever_did_not_ask_for_longest_and_neither_the_newest_nor_who_keeps_asking() -> None:
    limit = RateLimit(1, max_clients=2)
    for client in "ab":
        limit.take(client, now_s=0)
    with pytest.raises(RateLimited):
        limit.take("a", now_s=0)
    limit.take("c", now_s=0)
    for client in "ac":
        with pytest.raises(RateLimited):
            limit.take(client, now_s=0)
    limit.take("b", now_s=0)


def test_zero_means_no_limit() -> None:
    limit = RateLimit(0)
    for _ in range(1000):
        limit.take("a", now_s=0)
