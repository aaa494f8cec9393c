"""How many items a run gets, where they take long and where they wait for company."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from serving import running
from streams import eventually, held_poses
from test_bad_input import PERSON, settings
from test_batcher import asynchronous, batcher
from test_rush import clients, in_line


def slow(sizes: list[int], lasts_s: Callable[[int], float]) -> Callable[[list[int]], list[int]]:
    """A network whose run of so many items, noted in `sizes`, lasts so long."""

    def run(items: list[int]) -> list[int]:
        sizes.append(len(items))
        time.sleep(lasts_s(len(items)))
        return items

    return run


@asynchronous
async def test_where_items_take_long_a_run_gets_as_few_as_end_in_time() -> None:
    sizes: list[int] = []
    queue = batcher(slow(sizes, lambda count: 0.03 * count), max_batch=16, max_run_ms=100)
    await queue.submit_all(range(80))
    assert sizes[0] == 16 and max(sizes[5:]) <= 3
    await queue.close()


@asynchronous
async def test_where_only_a_run_takes_long_and_not_its_items_batches_are_full() -> None:
    sizes: list[int] = []
    queue = batcher(slow(sizes, lambda count: 0.05), max_batch=16, max_run_ms=400)
    for _ in range(9):  # alone, an item seems to take as long as a run
        await queue.submit(1)
    assert queue._most < 16
    for _ in range(9):
        await queue.submit_all(range(16))
    assert sizes[-3:] == [16, 16, 16]
    await queue.close()


@asynchronous
async def test_an_item_that_takes_longer_than_a_run_may_runs_alone() -> None:
    sizes: list[int] = []
    queue = batcher(slow(sizes, lambda count: 0.02 * count), max_run_ms=1)
    await queue.submit_all(range(4))
    assert queue._most == 1, "with 0 the event loop would turn round for ever"
    await queue.submit_all(range(2))
    assert sizes == [4, 1, 1]
    await queue.close()


def test_the_service_s_runs_get_as_few_crops_as_end_in_time(tiny_models: dict[str, Path]) -> None:
    with running(settings(tiny_models, max_run_ms=1)) as server:
        stage = server.app.state.pipeline._pose.batcher
        run = stage._run

        def slowly(crops: list[Any]) -> Any:
            threading.Event().wait(0.02 * len(crops))
            return run(crops)

        stage._run = slowly
        four = "/pose?boxes=" + ";".join(["20,20,44,70"] * 4)
        assert server.client.post(four, content=PERSON).status_code == 200  # tells how long a crop takes
        before = server.metric("pose_batch_size_count", model="pose")
        assert server.client.post(four, content=PERSON).status_code == 200
        assert server.metric("pose_batch_size_count", model="pose") == before + 4


def test_while_one_batch_runs_the_next_fills_however_few_people_a_picture_may_have(
    tiny_models: dict[str, Path],
) -> None:
    with running(settings(tiny_models, max_batch=4, max_people=1, tiles=1, max_tiles=1)) as server:
        answers, one = list[Any](), (PERSON, "?boxes=20,20,44,70")
        with held_poses(server) as held:
            threads = clients(server, 1, answers, *one)
            assert held.entered.wait(20)
            threads += clients(server, 4, answers, *one)
            assert eventually(lambda: in_line(server, "pose") == 4)
        for thread in threads:
            thread.join()
        assert [answer.status_code for answer in answers] == [200] * 5


def test_while_the_pose_network_is_busy_crops_wait_for_company_as_long_as_the_operator_says(
    tiny_models: dict[str, Path],
) -> None:
    with running(settings(tiny_models, max_batch=2, max_delay_ms=1e9, max_run_ms=1e9)) as server:
        answers, one = list[Any](), (PERSON, "?boxes=20,20,44,70")
        before = server.metric("pose_batch_size_count", model="pose")
        with held_poses(server) as held:
            threads = clients(server, 1, answers, *one)
            assert held.entered.wait(20)
            threads += clients(server, 1, answers, *one)
            assert eventually(lambda: in_line(server, "pose") == 1)
        threads[0].join()
        threads += clients(server, 1, answers, *one)
        for thread in threads:
            thread.join()
        assert [answer.status_code for answer in answers] == [200] * 3
        assert server.metric("pose_batch_size_count", model="pose") == before + 2
