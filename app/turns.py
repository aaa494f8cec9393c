"""Who waits, in two lines that are served in turns: frames of streams, and all else.

A frame is worth something for a moment, and each stream has one at a time; of pictures that are posted hundreds may
wait. In one line the frames would be as late as those. In two, either kind gets what it needs, or half of what there
is. Of those who post, each client has its turn: one with hundreds of pictures does not keep the others waiting for all.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from itertools import zip_longest
from typing import Generic, TypeVar

T = TypeVar("T")

LIVE: ContextVar[bool] = ContextVar("live", default=False)  # whether what is done now is done for a frame of a stream
CLIENT: ContextVar[str] = ContextVar("client", default="")  # for whom; streams are few a client, and share one turn


class _Line(Generic[T]):
    """Those of one kind: its clients in turns, and what one client wants in order."""

    def __init__(self) -> None:
        self._of: dict[str, deque[T]] = {}  # whose turn is next stands first; nobody's is empty

    def __len__(self) -> int:
        return sum(map(len, self._of.values()))

    def __iter__(self) -> Iterator[T]:
        return _in_turns(*self._of.values())

    def append(self, one: T) -> None:
        self._of.setdefault(CLIENT.get(), deque()).append(one)

    def popleft(self) -> T:
        client = next(iter(self._of))
        own = self._of.pop(client)
        one = own.popleft()
        if own:
            self._of[client] = own
        return one

    def keep(self, wanted: Callable[[T], bool]) -> None:
        kept = {client: deque(filter(wanted, own)) for client, own in self._of.items()}
        self._of = {client: own for client, own in kept.items() if own}


class Turns(Generic[T]):
    """Two lines as one queue. Whoever joins stands in the line that LIVE says."""

    def __init__(self) -> None:
        self._live, self._others = _Line[T](), _Line[T]()
        self._live_next = True  # where somebody waits in both

    def __len__(self) -> int:
        return len(self._live) + len(self._others)

    def __iter__(self) -> Iterator[T]:
        """All of them, in the order in which they will be served if nobody joins."""
        lines = (self._live, self._others) if self._live_next else (self._others, self._live)
        return _in_turns(*lines)

    @property
    def own(self) -> int:
        """How many stand in the line that LIVE says: the other is no reason to turn anybody away."""
        return len(self._live if LIVE.get() else self._others)

    def append(self, one: T) -> None:
        """`one` joins its line."""
        (self._live if LIVE.get() else self._others).append(one)

    def popleft(self) -> T:
        """Take the next of those who wait; somebody must."""
        live = bool(self._live) and (self._live_next or not self._others)
        if self._live and self._others:
            self._live_next = not live
        return (self._live if live else self._others).popleft()

    def keep(self, wanted: Callable[[T], bool]) -> None:
        """Send away all others."""
        self._live.keep(wanted)
        self._others.keep(wanted)

    def clear(self) -> None:
        """Send all away."""
        self.keep(lambda one: False)


_NOBODY = object()


def _in_turns(*lines: Iterable[T]) -> Iterator[T]:
    """The first of each line, then the second of each that has one, and so on."""
    for turn in zip_longest(*lines, fillvalue=_NOBODY):
        yield from (one for one in turn if one is not _NOBODY)  # type: ignore[misc]
