"""Room for so much at a time: in which order it is given, and who is told that it would be too late."""

import asyncio

import pytest
from test_batcher import asynchronous

from app.errors import Overloaded
from app.room import LATE, Room
from app.turns import LIVE


def room(size: int = 10, max_waiting: int = 100) -> Room:
    return Room(size, max_waiting=max_waiting, label="test")


class Guest:
    """Takes `size` of a room and stays until told to leave."""

    def __init__(self, where: Room, size: int, deadline: float | None = None) -> None:
        self.inside = False
        self._leave = asyncio.Event()
        self.task = asyncio.create_task(self._stay(where, size, deadline))

    async def _stay(self, where: Room, size: int, deadline: float | None) -> None:
        async with where.take(size, deadline):
            self.inside = True
            await self._leave.wait()
        self.inside = False

    async def leave(self) -> None:
        self._leave.set()
        await self.task


async def settled() -> None:
    """Whoever can go on has."""
    for _ in range(10):
        await asyncio.sleep(0)


async def guests(where: Room, *sizes: int) -> list[Guest]:
    made = [Guest(where, size) for size in sizes]
    await settled()
    return made


@asynchronous
async def test_nobody_overtakes_so_that_the_large_are_not_kept_waiting_by_the_small() -> None:
    where = room(10)
    first, large, small = await guests(where, 6, 8, 1)
    assert [guest.inside for guest in (first, large, small)] == [True, False, False]
    await first.leave()
    await settled()
    assert large.inside and small.inside and where.free == 1
    await large.leave()
    await small.leave()
    assert where.free == 10


@asynchronous
async def test_what_is_larger_than_the_room_takes_all_of_it() -> None:
    where = room(10)
    small, large = await guests(where, 1, 11)
    assert not large.inside
    await small.leave()
    await settled()
    assert large.inside and where.free == 0
    await large.leave()
    assert where.free == 10


@asynchronous
async def test_who_leaves_the_line_is_no_hindrance_to_those_behind() -> None:
    where = room(10)
    first, large, small = await guests(where, 6, 8, 1)
    large.task.cancel()
    await settled()
    assert small.inside and where.free == 3
    await first.leave()
    await small.leave()
    assert where.free == 10


@asynchronous
async def test_who_is_cancelled_when_just_let_in_gives_the_room_back() -> None:
    where = room(10)
    first, second, third = await guests(where, 10, 10, 10)
    first._leave.set()
    while len(where._line) == 2:
        await asyncio.sleep(0)
    second.task.cancel()  # the room is its own already, but it has not been woken
    await asyncio.gather(second.task, return_exceptions=True)
    await settled()
    assert second.task.cancelled() and third.inside
    await third.leave()
    assert where.free == 10


@asynchronous
async def test_a_line_that_is_too_long_refuses_at_once() -> None:
    where = room(1, max_waiting=1)
    first, second = await guests(where, 1, 1)
    with pytest.raises(Overloaded) as refused:
        async with where.take(1):
            pass
    assert refused.value.detail != LATE
    await first.leave()
    await second.leave()


@asynchronous
async def test_a_line_of_pictures_that_is_full_has_a_place_for_a_stream_s_frame() -> None:
    where = room(1, max_waiting=1)
    first, second = await guests(where, 1, 1)
    LIVE.set(True)
    (frame,) = await guests(where, 1)
    assert not frame.task.done()
    for guest in (first, frame, second):
        await guest.leave()


async def known_stay(where: Room, stay_s: float) -> None:
    """Let a whole roomful stay for `stay_s` or longer."""
    async with where.take(10):
        await asyncio.sleep(stay_s)


@asynchronous
async def test_who_cannot_be_answered_in_time_is_told_at_once_and_when_to_come_back() -> None:
    where, now = room(10), asyncio.get_running_loop().time
    await known_stay(where, 0.1)
    (inside,) = await guests(where, 10)
    patient, hopeless = Guest(where, 10, now() + 3600), Guest(where, 10, now() + 0.1)  # after two stays it ends
    with pytest.raises(Overloaded, match=LATE) as refused:
        await hopeless.task
    assert (refused.value.retry_after_s or 0) >= 1 and not patient.inside
    await inside.leave()
    await settled()
    assert patient.inside
    await patient.leave()


@asynchronous
async def test_who_could_be_in_time_and_no_longer_can_is_told_when_that_is_known() -> None:
    where, now = room(10), asyncio.get_running_loop().time
    (slow,) = await guests(where, 10)
    waits, behind = Guest(where, 10, now() + 0.15), Guest(where, 10, now() + 3600)
    await asyncio.sleep(0.1)
    assert not waits.task.done(), "nothing is known of how long a stay is"
    await slow.leave()
    with pytest.raises(Overloaded, match=LATE):
        await waits.task
    await settled()
    assert behind.inside, "the room that it would have taken in vain is another's"
    await behind.leave()


@asynchronous
async def test_what_a_small_guest_s_stay_says_of_a_roomful_s_counts_by_its_size() -> None:
    where, now = room(10), asyncio.get_running_loop().time
    where._stay_s = 3600.0
    async with where.take(1):
        pass
    (inside,) = await guests(where, 10)
    hopeless = Guest(where, 10, now() + 1800)
    await settled()
    assert isinstance(hopeless.task.exception(), Overloaded)
    await inside.leave()


@asynchronous
async def test_who_waits_though_some_room_is_free_is_expected_to_need_only_the_rest() -> None:
    where, now = room(10), asyncio.get_running_loop().time
    where._stay_s = 1000.0
    (inside,) = await guests(where, 6)
    large = Guest(where, 8, now() + 1600)  # 4 of 10 must leave before its own 1000 s begin
    await settled()
    assert not large.task.done()
    await inside.leave()
    await large.leave()


@asynchronous
async def test_who_finds_room_comes_in_however_slow_the_others_were() -> None:
    for size in (1, 10):
        where = room(10)
        await known_stay(where, 0.1)
        async with where.take(size, asyncio.get_running_loop().time()):
            assert where.free == 10 - size
    assert where.free == 10


@asynchronous
async def test_who_waits_behind_others_is_expected_to_need_their_stays_too_but_not_those_of_who_was_refused() -> None:
    where, now = room(10), asyncio.get_running_loop().time
    where._stay_s = 1000.0
    (inside,) = await guests(where, 10)
    refused, first = Guest(where, 10, now() + 1500), Guest(where, 10, now() + 2500)
    hopeless, last = Guest(where, 10, now() + 2500), Guest(where, 10, now() + 3500)
    await settled()
    assert [guest.task.done() for guest in (refused, first, hopeless, last)] == [True, False, True, False]
    assert isinstance(hopeless.task.exception(), Overloaded) and isinstance(refused.task.exception(), Overloaded)
    for guest in (inside, first, last):
        await guest.leave()


@asynchronous
async def test_who_is_cancelled_when_just_turned_away_gives_no_room_back() -> None:
    where, now = room(10), asyncio.get_running_loop().time
    inside, waits = (await guests(where, 10))[0], Guest(where, 10, now() + 3600)
    await settled()
    where._stay_s, (waiting,) = 1e6, where._line
    newcomer = Guest(where, 1)
    while not waiting.let_in.done():
        await asyncio.sleep(0)
    waits.task.cancel()  # it is turned away already, but it has not been woken
    await asyncio.gather(waits.task, return_exceptions=True)
    assert waits.task.cancelled() and where.free == 0
    await inside.leave()
    await newcomer.leave()
    assert where.free == 10


@asynchronous
async def test_who_is_leaving_the_line_is_nobody_to_turn_away() -> None:
    where, now = room(10), asyncio.get_running_loop().time
    inside, waits = (await guests(where, 10))[0], Guest(where, 10, now() + 3600)
    await settled()
    where._stay_s = 1e6
    waits.task.cancel()  # it has not been woken
    (newcomer,) = await guests(where, 1)
    assert waits.task.cancelled() and not newcomer.task.done()
    await inside.leave()
    await newcomer.leave()
    assert where.free == 10
