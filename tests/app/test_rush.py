"""Many large pictures at once: memory is bounded, the small go on, and what cannot be served in time is told so."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from serving import Server, encoded, picture, running
from streams import ONE, answer, eventually, held_poses, open_stream
from test_bad_input import PERSON, assert_problem, settings
from test_batcher import asynchronous
from test_images import png_claiming

from app import images
from app.errors import Overloaded
from app.places import SMALL_PIXELS, Places
from app.room import LATE
from app.settings import Settings

SIDE = 1600  # more than SMALL_PIXELS
LARGE = encoded(picture(SIDE, SIDE, boxes=((100, 80, 300, 350),)))
TILED = encoded(picture(1400, 1400, boxes=((100, 80, 300, 350),)))  # small, and yet looked at in tiles
SMALL = encoded(picture())
TWO_AT_A_TIME: dict[str, Any] = {"max_pixels": SIDE**2, "max_decoded_pixels": 2 * SIDE**2}


def clients(
    server: Server, count: int, answers: list[Any], body: bytes = LARGE, query: str = ""
) -> list[threading.Thread]:
    """So many of them, that send the picture `body` at the same time."""

    def ask() -> None:
        answers.append(server.client.post(f"/pose{query}", content=body))

    threads = [threading.Thread(target=ask) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads


def decoded(server: Server) -> float:
    return server.metric("pose_decode_duration_seconds_count")


def in_line(server: Server, label: str) -> float:
    return server.metric("pose_queue_depth", model=label)


def test_so_many_pixels_are_decoded_at_a_time_and_small_pictures_do_not_wait_for_them(
    tiny_models: dict[str, Path],
) -> None:
    with running(settings(tiny_models, **TWO_AT_A_TIME)) as server:
        before, answers = decoded(server), list[Any]()
        with held_poses(server) as held:
            threads = clients(server, 5, answers)
            assert held.entered.wait(20) and eventually(lambda: in_line(server, "place") == 3)
            assert eventually(lambda: decoded(server) == before + 2)
            assert server.client.post("/pose", content=SMALL).status_code == 200
            assert decoded(server) == before + 3 and in_line(server, "place") == 3
        for thread in threads:
            thread.join()
        assert [answer.status_code for answer in answers] == [200] * 5
        assert server.app.state.pipeline._places._large.free == 2 * SIDE**2


def test_what_is_refused_for_its_header_does_not_wait_for_a_place(tiny_models: dict[str, Path]) -> None:
    with running(settings(tiny_models, **TWO_AT_A_TIME)) as server:
        places = server.app.state.pipeline._places
        places._small._free = places._large._free = 0  # as if others held all of them
        assert_problem(server.client.post("/pose", content=b"no picture"), 415)
        assert_problem(server.client.post("/pose", content=LARGE[:30]), 400)
        assert_problem(server.client.post("/pose", content=png_claiming(SIDE, SIDE + 1)), 413)


@asynchronous
async def test_there_are_so_many_small_pictures_at_once_and_so_many_large_ones_however_few_their_pixels() -> None:
    places = Places(small=2, large=2, pixels=100 * SMALL_PIXELS, max_waiting=9)
    for pixels, others in ((SMALL_PIXELS + 1, SMALL_PIXELS), (SMALL_PIXELS, SMALL_PIXELS + 1)):
        third = places.take(pixels)
        async with places.take(pixels), places.take(pixels), places.take(others):
            waiting = asyncio.ensure_future(third.__aenter__())
            await asyncio.sleep(0)
            assert not waiting.done()
        await waiting
        await third.__aexit__(None, None, None)


@asynchronous
async def test_in_either_line_for_places_so_many_may_wait() -> None:
    places = Places(small=1, large=1, pixels=100 * SMALL_PIXELS, max_waiting=1)
    for pixels in (SMALL_PIXELS, SMALL_PIXELS + 1):
        second = places.take(pixels)
        async with places.take(pixels):
            waiting = asyncio.ensure_future(second.__aenter__())
            await asyncio.sleep(0)
            with pytest.raises(Overloaded):
                await places.take(pixels).__aenter__()
        await waiting
        await second.__aexit__(None, None, None)


@contextmanager
def held_decoding(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[threading.Event]]:
    """Threads that decode begin and do not end before the block does: an event for each that began."""
    began, go, decode_as = list[threading.Event](), threading.Event(), images.decode_as

    def held(data: bytes, header: images.Header) -> Any:
        began.append(go)
        assert go.wait(30)
        return decode_as(data, header)

    with monkeypatch.context() as patch:
        patch.setattr(images, "decode_as", held)
        try:
            yield began
        finally:
            go.set()


def test_a_place_is_free_again_when_its_thread_is_done_and_not_when_its_client_is_told(
    tiny_models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {**TWO_AT_A_TIME, "max_decoded_pixels": SIDE**2, "request_deadline_ms": 200}
    with running(settings(tiny_models, **values)) as server:
        room = server.app.state.pipeline._places._large
        with held_decoding(monkeypatch) as began:
            assert_problem(server.client.post("/pose", content=LARGE), 504)
            assert room.free == 0 and len(began) == 1
            assert_problem(server.client.post("/pose", content=LARGE), 504)
            assert room.free == 0 and len(began) == 1, "the second one's pixels would have been beside the first one's"
        assert eventually(lambda: room.free == SIDE**2)


@pytest.mark.parametrize("body", [LARGE, SMALL], ids=["large", "small"])
def test_who_cannot_be_served_in_time_is_refused_before_the_work(tiny_models: dict[str, Path], body: bytes) -> None:
    with running(settings(tiny_models, **TWO_AT_A_TIME)) as server:
        places, before = server.app.state.pipeline._places, decoded(server)
        room = places._large if body is LARGE else places._small
        free, room._free, room._stay_s = room.free, 0, 3600.0  # as if others held it, an hour each
        refused = server.client.post("/pose", content=body)
        assert_problem(refused, 503, LATE)
        assert refused.headers["retry-after"] == "60" and decoded(server) == before
        room._free = free
        assert server.client.post("/pose", content=body).status_code == 200


def test_whose_crops_would_be_late_is_refused_before_they_are_cut(tiny_models: dict[str, Path]) -> None:
    def cut() -> float:
        return server.metric("pose_preprocess_duration_seconds_count", model="pose")

    with running(settings(tiny_models)) as server:
        room, before = server.app.state.pipeline._pose._room, cut()
        free, room._free, room._stay_s = room.free, 0, 3600.0  # as if others held it, an hour each
        assert_problem(server.client.post("/pose", content=PERSON), 503, LATE)
        assert cut() == before
        room._free = free
        assert server.client.post("/pose", content=PERSON).status_code == 200


def test_looks_that_find_no_room_in_the_queue_wait_uncut_and_all_are_answered(tiny_models: dict[str, Path]) -> None:
    with running(settings(tiny_models, max_people=1, max_waiting=21)) as server:
        batcher, go = server.app.state.pipeline._detect.batcher, threading.Event()
        run, answers = batcher._run, list[Any]()

        def held(looks: Any) -> Any:
            assert go.wait(30)
            return run(looks)

        batcher._run = held
        cut = server.metric("pose_preprocess_duration_seconds_count", model="detector")
        threads = clients(server, 6, answers, TILED, "?tiles=4")
        assert eventually(lambda: in_line(server, "detector room") == 5)
        assert server.metric("pose_preprocess_duration_seconds_count", model="detector") <= cut + 1
        go.set()
        for thread in threads:
            thread.join()
        assert [answer.status_code for answer in answers] == [200] * 6


def test_no_more_crops_are_cut_than_are_soon_run(tiny_models: dict[str, Path]) -> None:
    """Cut ones are memory, and all in one queue they would all be late together."""
    with running(settings(tiny_models, max_batch=1, max_people=4, tiles=1, max_tiles=1)) as server:
        answers = list[Any]()
        with held_poses(server) as held:
            count = server.app.state.pipeline.workers.count + 2
            threads = clients(server, count, answers, PERSON, "?boxes=" + ";".join(["20,20,44,70"] * 4))
            assert held.entered.wait(20) and eventually(lambda: in_line(server, "pose room") > 0)
        for thread in threads:
            thread.join()
        assert [answer.status_code for answer in answers] == [200] * count


# --- where the time went ---------------------------------------------------------------------------------------------

LEAST_MS = 100.0


def slowed(work: Any) -> Any:
    def slow(*args: Any) -> Any:
        threading.Event().wait(LEAST_MS / 1e3)
        return work(*args)

    return slow


@pytest.mark.parametrize("part", ["preprocess", "inference"])
def test_cutting_the_looks_and_all_of_their_runs_count_as_detection(tiny_models: dict[str, Path], part: str) -> None:
    def counted_ms() -> float:
        return 1e3 * server.metric(f"pose_{part}_duration_seconds_sum", model="detector")

    with running(Settings(provider="cpu", max_batch=2, **tiny_models)) as server:  # type: ignore[arg-type]
        stage, times, before_ms = server.app.state.pipeline._detect, 1, counted_ms()
        if part == "preprocess":
            stage._cut = slowed(stage._cut)
        else:
            stage.batcher._run, times = slowed(stage.batcher._run), 3  # 5 looks
        spent = server.client.post("/pose", content=LARGE).json()["timing_ms"]
        assert times * LEAST_MS <= counted_ms() - before_ms <= spent["detect"] + 0.03  # as rounded
        assert spent["queue"] <= spent["total"] - spent["detect"]


def test_the_wait_for_a_place_counts_as_queue_and_the_parts_never_exceed_the_whole(
    tiny_models: dict[str, Path],
) -> None:
    values = {**TWO_AT_A_TIME, "max_decoded_pixels": SIDE**2}
    with running(settings(tiny_models, **values)) as server:
        waited, answers = server.metric("pose_queue_duration_seconds_sum", model="place"), list[Any]()
        with held_poses(server) as held:
            threads = clients(server, 2, answers)
            assert held.entered.wait(20) and eventually(lambda: in_line(server, "place") == 1)
            threading.Event().wait(LEAST_MS / 1e3)
        for thread in threads:
            thread.join()
        answers.append(server.client.post("/pose", content=PERSON))
        spent = [answer.json()["timing_ms"] for answer in answers]
        assert max(one["queue"] for one in spent) >= LEAST_MS
        waited = server.metric("pose_queue_duration_seconds_sum", model="place") - waited
        assert LEAST_MS <= waited * 1e3 <= sum(one["queue"] for one in spent) + 0.03
        for one in spent:
            assert sum(ms for stage, ms in one.items() if stage != "total") <= one["total"] + 0.03  # as rounded


def test_the_wait_for_room_in_a_network_s_queue_counts_as_queue(tiny_models: dict[str, Path]) -> None:
    with running(settings(tiny_models, max_waiting=1, max_people=1, tiles=1, max_tiles=1)) as server:
        answers = list[Any]()
        with held_poses(server) as held:
            threads = clients(server, 1, answers, PERSON)
            assert held.entered.wait(20)
            threads += clients(server, 1, answers, PERSON)
            assert eventually(lambda: in_line(server, "pose room") == 1)
            threading.Event().wait(LEAST_MS / 1e3)
        for thread in threads:
            thread.join()
        assert max(answer.json()["timing_ms"]["queue"] for answer in answers) >= LEAST_MS


@pytest.mark.parametrize("query", ["", "?boxes=20,20,44,70"], ids=["detected", "boxes given"])
def test_a_frame_does_not_wait_behind_the_pictures_that_were_posted_before_it(
    tiny_models: dict[str, Path], query: str
) -> None:
    with running(settings(tiny_models, max_batch=1)) as server:
        answers = list[Any]()
        with held_poses(server) as held, open_stream(server) as stream:
            threads = clients(server, 40, answers, PERSON, query)
            assert held.entered.wait(20) and eventually(lambda: in_line(server, "place") >= 10)
            stream.send(ONE)
            threading.Event().wait(0.2)  # until the frame stands in line, too
            held.release.set()
            assert len(answer(stream)["people"]) == 1
            before_it = len(answers)
        for thread in threads:
            thread.join()
    assert {each.status_code for each in answers} == {200}
    assert before_it < 25
