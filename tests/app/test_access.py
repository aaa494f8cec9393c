"""Keys and the rate limit."""

import pytest

from app.access import RateLimit, check_key, given_key
from app.errors import RateLimited, Unauthorized


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
