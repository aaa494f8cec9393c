"""Two lines that are served in turns."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.turns import LIVE, Turns


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


@given(kinds=st.text("fo", max_size=12), taken=st.integers(0, 5), gone=st.sets(st.integers(0, 11)))
def test_the_order_foretold_is_the_order_served_whoever_left_before(kinds: str, taken: int, gone: set[int]) -> None:
    turns = waiting(kinds)
    for _ in range(min(taken, len(turns))):
        turns.popleft()
    leaving = {one for index, one in enumerate(turns) if index in gone}
    turns.keep(lambda one: one not in leaving)
    foretold = " ".join(turns)
    assert served(turns) == foretold and not leaving & set(foretold.split())


def test_each_line_has_its_own_length() -> None:
    turns = waiting("ooof")
    assert (len(turns), turns.own) == (4, 3)
    with live():
        assert turns.own == 1
    turns.clear()
    assert (len(turns), turns.own) == (0, 0)
