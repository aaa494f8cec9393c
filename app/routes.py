"""The HTTP side: POST /pose, health, models, metrics."""

import asyncio
import time
from collections import Counter
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

import orjson
from fastapi import APIRouter, Depends, Query, Request, Response, Security
from fastapi.security import APIKeyHeader, HTTPBearer
from starlette.requests import ClientDisconnect

from app import formats, metrics, render
from app.access import check_key, client_of, given_key
from app.bodies import read_pictures
from app.deadline import before
from app.errors import BadParameter, Draining, SlowBody, told_apart
from app.geometry import Image
from app.models import Network
from app.pipeline import Options, People, Person, Pipeline
from app.schemas import AnyAnswer, ImageBody, PoseParameters, Problem
from app.settings import Settings
from app.turns import CLIENT

router = APIRouter()
T = TypeVar("T")

MOST_OPTIONS = 100  # that are read, if only to be refused: each of ten thousand strange ones takes 15 microseconds

PICTURE = {"schema": {"type": "string", "format": "binary"}}
FORM = {
    "type": "object",
    "properties": {"image": {"type": "array", "items": {"type": "string", "format": "binary"}}},
    "required": ["image"],
}
BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": FORM},
            "application/json": {"schema": ImageBody.model_json_schema()},
            **{f"image/{kind}": PICTURE for kind in ("jpeg", "png", "webp")},
        },
    }
}
Responses = dict[int | str, dict[str, Any]]


def problems(texts: dict[int, str]) -> Responses:
    """What the OpenAPI document says of the errors with these statuses."""
    content = {"application/problem+json": {"schema": Problem.model_json_schema()}}
    return {status: {"description": text, "content": content} for status, text in texts.items()}


PROBLEMS = problems(
    {
        400: "Not a picture, truncated, or damaged",
        401: "API key missing or wrong",
        408: "The body took too long to arrive",
        413: "Too many bytes, pixels or pictures",
        415: "Not JPEG, PNG or WebP",
        422: "Unknown option, or one out of range",
        429: "Too many requests of this client; see Retry-After",
        500: "Inference failed",
        503: "Queue full, no answer to be expected in time, or shutting down; see Retry-After",
        504: "No answer within the time allowed",
    }
)


def json_response(content: Any, status: int = 200) -> Response:
    """`content` as JSON."""
    return Response(orjson.dumps(content), status, media_type="application/json")


async def admit(request: Request) -> None:
    """Let in who has a key, and not too often, unless the service is to stop.

    Raises Draining, Unauthorized or RateLimited.
    """
    settings: Settings = request.app.state.settings
    if request.app.state.pipeline.draining:
        raise Draining()
    key = given_key(request.headers)
    check_key(key, settings.api_keys)
    client = client_of(request.client.host) if request.client else "unknown"
    who = key if settings.api_keys else client
    request.app.state.rate_limit.take(who)
    CLIENT.set(who)


async def few_options(request: Request) -> None:
    """Raises BadParameter before so many options are looked at that all other clients would wait."""
    if request.scope["query_string"].count(b"&") >= MOST_OPTIONS:
        raise BadParameter(f"more than {MOST_OPTIONS} options")


@router.post(
    "/pose",
    dependencies=[
        Depends(admit),
        Depends(few_options),
        Security(APIKeyHeader(name="X-API-Key", auto_error=False)),
        Security(HTTPBearer(auto_error=False)),
    ],
    response_model=AnyAnswer,
    responses={200: {"content": {"image/jpeg": PICTURE}}, **PROBLEMS},
    openapi_extra=BODY,
)
async def pose(request: Request, parameters: Annotated[PoseParameters, Query()]) -> Response:
    """The people in one or several pictures: 17 COCO keypoints each, in pixels of the upright picture."""
    settings: Settings = request.app.state.settings
    pipeline: Pipeline = request.app.state.pipeline
    refuse_repeated(request)
    options = parameters.options(settings)
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            pictures = await read_pictures(request, settings.max_images)
    except TimeoutError:
        raise SlowBody(f"the body did not arrive within {settings.body_timeout_s:g} seconds") from None
    if len(pictures) > 1 and (parameters.render == "jpeg" or parameters.boxes is not None):
        raise BadParameter("boxes and render=jpeg are for one picture at a time")
    deadline = asyncio.get_running_loop().time() + settings.request_deadline_ms / 1000
    # One request never overflows the queue.
    room = asyncio.Semaphore(settings.max_waiting // settings.most_of_a_picture)

    async def one(number: int, data: bytes) -> Estimate:
        with told_apart(number, len(pictures)):
            return await estimate(pipeline, data, options, deadline, room, parameters.render)

    async with before(deadline):
        answers = await _for_client(request, [one(*numbered) for numbered in enumerate(pictures, start=1)])
    if parameters.render == "jpeg":
        return Response(answers[0].drawn, media_type="image/jpeg")
    return json_response(_shaped(answers, parameters.format, pipeline.networks))


def refuse_repeated(request: Request) -> None:
    """Raises BadParameter where an option is given twice: the framework would quietly take the last one."""
    times = Counter(name for name, _ in request.query_params.multi_items())
    repeated = [name for name, count in times.items() if count > 1]
    if repeated:
        raise BadParameter(f"{', '.join(repeated)}: given more than once")


@dataclass(frozen=True)
class Estimate:
    """What came of one picture: its size, its people, and the JPEG with them drawn in if that was asked for."""

    size_wh: tuple[int, int]
    found: People
    drawn: bytes | None


async def estimate(
    pipeline: Pipeline,
    data: bytes,
    options: Options,
    deadline: float,
    room: asyncio.Semaphore,
    rendered: Literal["json", "jpeg"] = "json",
) -> Estimate:
    """One picture from its bytes to its people, once there is `room`; `timing_ms` has each stage and the total."""
    arrived = time.perf_counter()
    async with room, pipeline.opened(data, deadline) as picture:
        image = picture.image
        if rendered == "jpeg":
            render.check_size(image)
        result = await pipeline.people(image, options, deadline)
        drawn = await pipeline.workers.run(_draw, image, result.people) if rendered == "jpeg" else None
    timing_ms = picture.timing_ms(arrived, result.timing_ms)
    return Estimate((image.shape[1], image.shape[0]), People(result.people, timing_ms), drawn)


def _draw(image: Image, people: Sequence[Person]) -> bytes:
    return render.to_jpeg(render.draw(image, people))


async def _for_client(request: Request, works: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of all `works`, side by side. The first error ends them all, and so does a client that leaves."""
    tasks = [asyncio.ensure_future(work) for work in works]
    results, gone = asyncio.gather(*tasks), asyncio.ensure_future(_disconnected(request))
    results.add_done_callback(lambda done: done.cancelled() or done.exception())  # perhaps nobody else looks at it
    try:
        await asyncio.wait((results, gone), return_when=asyncio.FIRST_COMPLETED)
        if not results.done():
            raise ClientDisconnect
        return results.result()
    finally:
        for task in (*tasks, gone):
            task.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _shaped(answers: list[Estimate], format: str, networks: dict[str, Network]) -> Any:
    """One picture: its answer. Several: {"results": [...]}, but COCO results are one list, told apart by image_id."""
    if format == "coco":
        return [row for index, answer in enumerate(answers) for row in formats.coco(answer.found.people, index)]
    if format == "openpose":
        shaped = [formats.openpose(answer.found.people) for answer in answers]
    else:
        shaped = [formats.native(one.size_wh, one.found.people, networks, one.found.timing_ms) for one in answers]
    return shaped[0] if len(shaped) == 1 else {"results": shaped}


@router.get("/metrics", response_class=Response)
async def prometheus() -> Response:
    """Every metric, in Prometheus's text format."""
    return Response(await asyncio.to_thread(metrics.exposition), media_type=metrics.CONTENT_TYPE)
