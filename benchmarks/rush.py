"""How live streams stay while pictures are posted: python -m benchmarks.rush --url http://localhost:8000

Some streams send a photograph several times a second, alone at first and then beside clients who post it, each again as
soon as it is answered. Against a service of your own: it runs elsewhere, or the clients here take its cores.
"""

import argparse
import asyncio
import logging
import time
from collections import Counter
from pathlib import Path

import httpx
import numpy as np
import orjson
from websockets.asyncio.client import connect

from benchmarks.command import at_least, one_line_errors

PHOTOGRAPH = Path(__file__).parent.parent / "docs" / "astronaut.jpg"
SETTLING_S = 2.0  # after the posts have begun, before frames count


async def stream(url: str, frames_a_second: float, ages_ms: list[tuple[float, float]]) -> None:
    """Send for ever; note when each answer came, and how old its frame was."""
    picture = PHOTOGRAPH.read_bytes()
    async with connect(url.replace("http", "ws", 1).rstrip("/") + "/stream", compression=None) as socket:

        async def listen() -> None:
            async for text in socket:
                ages_ms.append((time.perf_counter(), orjson.loads(text).get("age_ms", np.nan)))

        listening = asyncio.create_task(listen())
        try:
            while True:
                await socket.send(picture)
                await asyncio.sleep(1 / frames_a_second)
        finally:
            listening.cancel()


async def post(client: httpx.AsyncClient, codes: Counter[int]) -> None:
    """Post for ever; after a refusal wait a little, as a client should."""
    picture = PHOTOGRAPH.read_bytes()
    while True:
        answer = await client.post("/pose", content=picture)
        codes[answer.status_code] += 1
        if answer.status_code != 200:
            await asyncio.sleep(0.2)


def row(name: str, ages_ms: list[tuple[float, float]], began_s: float) -> str:
    """Frames answered a second since `began_s`, and their median and worst age."""
    ages = np.array([age for came_s, age in ages_ms if came_s >= began_s and not np.isnan(age)])
    rate = len(ages) / (time.perf_counter() - began_s)
    return f"{name:<22}{rate:>10.1f}" + (f"{np.median(ages):>12.0f}{ages.max():>10.0f}" if len(ages) else "")


async def measure(url: str, streams: int, frames_a_second: float, posts: int, seconds: float) -> None:
    """Print a row without posts and one with."""
    ages_ms: list[tuple[float, float]] = []
    codes: Counter[int] = Counter()
    print(f"{'':<22}{'frames/s':>10}{'median ms':>12}{'worst':>10}")
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=httpx.Limits(max_connections=posts)) as client:
        tasks = [asyncio.create_task(stream(url, frames_a_second, ages_ms)) for _ in range(streams)]
        await asyncio.sleep(SETTLING_S)
        began_s = time.perf_counter()
        await asyncio.sleep(seconds)
        print(row(f"{streams} streams alone", ages_ms, began_s))
        tasks += [asyncio.create_task(post(client, codes)) for _ in range(posts)]
        await asyncio.sleep(SETTLING_S)
        began_s, before = time.perf_counter(), codes.copy()
        await asyncio.sleep(seconds)
        print(row(f"beside {posts} posts", ages_ms, began_s))
        print(", ".join(f"{count / seconds:.1f} posts a second got {code}" for code, count in (codes - before).items()))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@one_line_errors()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://localhost:8000")
    parser.add_argument("--streams", type=at_least(1), default=4)
    parser.add_argument("--fps", type=at_least(0.1, float), default=5.0, help="frames a second of each stream")
    parser.add_argument("--posts", type=at_least(1), default=100, help="pictures under way at a time")
    parser.add_argument("--seconds", type=at_least(1, float), default=10.0, help="of each of the two rows")
    options = parser.parse_args()
    logging.getLogger("httpx").setLevel(logging.WARNING)  # or there is a line for each post
    try:
        httpx.get(options.url + "/readyz", timeout=10)
    except httpx.HTTPError as error:
        raise ValueError(f"--url {options.url}: a running service was expected: {error}") from error
    asyncio.run(measure(options.url, options.streams, options.fps, options.posts, options.seconds))


if __name__ == "__main__":
    main()
