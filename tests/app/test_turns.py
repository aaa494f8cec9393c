"""Two lines that are served in turns."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving import running

from app.routes import few_options
from app.settings import Settings
from app.turns import CLIENT, LIVE, Turns


@contextmanager
def live(yes: bool = True) -> Iterator[None]:
    token = LIVE.set(yes)
    try:
        yield
    finally:
        LIVE.reset(token)


def waiting(kinds: str) -> Turns[str]:
    """Those of f00o..., named by their kind (f: a frame, o: another) and their number of it."""
    turns = Turns[str]()
    for index, kind in enumerate(kinds):
        with live(kind == "f"):
            turns.append(f"{kind}{kinds[:index].count(kind)}")
    return turns


def served(turns: Turns[str]) -> str:
    return " ".join(turns.popleft() for _ in range(len(turns)))


@pytest.mark.parametrize(
    ("kinds", "order"),
    [
        ("", ""),
        ("ooo", "o0 o1 o2"),
        ("fff", "f0 f1 f2"),
        ("oooof", "f0 o0 o1 o2 o3"),
        ("oooofff", "f0 o0 f1 o1 f2 o2 o3"),
        ("ffffo", "f0 o0 f1 f2 f3"),
    ],
)
def test_frames_and_all_else_are_served_in_turns_each_first_come_first_served(kinds: str, order: str) -> None:
    turns = waiting(kinds)
    assert " ".join(turns) == order
    assert served(turns) == order


def test_who_was_served_while_nobody_waited_in_the_other_line_has_not_used_its_turn() -> None:
    turns = waiting("f")
    assert turns.popleft() == "f0"
    turns.append("o0")
    with live():
        turns.append("f1")
    assert served(turns) == "f1 o0"


def assert_foretold(turns: Turns[str], taken: int, gone: set[int]) -> None:
    """The order of those who wait is the one in which they are served, after some were and others have left."""
    for _ in range(min(taken, len(turns))):
        turns.popleft()
    leaving = {one for index, one in enumerate(turns) if index in gone}
    turns.keep(lambda one: one not in leaving)
    foretold = " ".join(turns)
    assert served(turns) == foretold and not leaving & set(foretold.split())


def of_clients(clients: str) -> Turns[str]:
    """Those of aab...: what clients of these names posted, named by its client and its number of them."""
    turns = Turns[str]()
    for index, client in enumerate(clients):
        token = CLIENT.set(client)
        turns.append(f"{client}{clients[:index].count(client)}")
        CLIENT.reset(token)
    return turns


@pytest.mark.parametrize(
    ("clients", "order"),
    [("aaab", "a0 b0 a1 a2"), ("aaabbc", "a0 b0 c0 a1 b1 a2"), ("abab", "a0 b0 a1 b1")],
)
def test_each_client_has_its_turn_however_many_pictures_another_posts(clients: str, order: str) -> None:
    turns = of_clients(clients)
    assert " ".join(turns) == order
    assert served(turns) == order


def test_who_comes_again_waits_for_one_turn_of_each_other_client() -> None:
    turns = of_clients("aaab")
    assert [turns.popleft(), turns.popleft()] == ["a0", "b0"]
    token = CLIENT.set("b")
    turns.append("b1")
    CLIENT.reset(token)
    assert served(turns) == "a1 b1 a2"


@given(clients=st.text("abc", max_size=12), taken=st.integers(0, 5), gone=st.sets(st.integers(0, 11)))
def test_so_is_the_order_foretold_of_clients(clients: str, taken: int, gone: set[int]) -> None:
    assert_foretold(of_clients(clients), taken, gone)


@pytest.mark.parametrize(("keys", "client"), [((), "198.51.100.7"), (("secret",), "secret")])
def test_who_posts_is_known_by_key_or_else_by_address(
    tiny_models: dict[str, Path], keys: tuple[str, ...], client: str
) -> None:
    known = []

    async def notice() -> None:
        known.append(CLIENT.get())

    with running(Settings(provider="cpu", api_keys=keys, **tiny_models)) as server:  # type: ignore[arg-type]
        server.app.dependency_overrides[few_options] = notice
        headers = {"X-API-Key": "secret", "X-Forwarded-For": "198.51.100.7"}  # as a trusted proxy says
        server.client.post("/pose", headers=headers)
    assert known == [client]


@given(kinds=st.text("fo", max_size=12), taken=st.integers(0, 5), gone=st.sets(st.integers(0, 11)))
def test_the_order_foretold_is_the_order_served_whoever_left_before(kinds: str, taken: int, gone: set[int]) -> None:
    assert_foretold(waiting(kinds), taken, gone)


def test_each_line_has_its_own_length() -> None:
    turns = waiting("ooof")
    assert (len(turns), turns.own) == (4, 3)
    with live():
        assert turns.own == 1
    turns.clear()
    assert (len(turns), turns.own) == (0, 0)
