"""Two small ASGI middlewares: the body limit, and the record (request id, metrics, log line) of every request.

And the answer to an error, which the record needs for those that nobody foresaw.
"""

import logging
import re
import time
import uuid
from typing import Any

import orjson
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import metrics
from app.errors import Overloaded, PoseError, TooLarge

log = logging.getLogger("app.access")

SAFE_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)


def problem(error: PoseError) -> Response:
    """The answer for `error`, counted."""
    metrics.rejected.labels(error.reason).inc()
    body = orjson.dumps(error.problem())
    return Response(body, error.status, error.headers(), media_type="application/problem+json")


class BodyLimit:
    """Refuses bodies of more than `max_bytes` with TooLarge, counted as they arrive: Content-Length may lie.

    And with Overloaded what would make the bodies of all requests that are not answered yet more than `max_held_bytes`.
    The error is raised where the route reads the body, so it is answered like every other one.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, max_held_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._max_held_bytes = max_held_bytes
        self._held_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        claimed = Headers(scope=scope).get("content-length", "")
        received = int(claimed) if claimed.isdecimal() and int(claimed) > self._max_bytes else 0
        held = 0  # of it, by this request

        async def counted() -> Message:
            nonlocal received, held
            if received <= self._max_bytes:
                message = await receive()
                size = len(message.get("body", b""))
                received, held, self._held_bytes = received + size, held + size, self._held_bytes + size
            else:
                message = {}
            if received > self._max_bytes:
                raise TooLarge(f"the request's body has more than the {self._max_bytes} bytes allowed")
            if self._held_bytes > self._max_held_bytes:
                raise Overloaded("the bodies of all requests together are larger than the service can hold")
            return message

        try:
            await self._app(scope, counted, send)
        finally:
            self._held_bytes -= held


class Record:
    """Gives every HTTP request an id (X-Request-ID), counts and times it, and writes one log line.

    What its body takes to arrive is its client's time: it is in the log line alone. An error that nobody foresaw is
    answered here, not by the framework outside of this: so it has an id, too.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        wished = Headers(scope=scope).get("x-request-id", "")
        request_id = wished if SAFE_ID.fullmatch(wished) else uuid.uuid4().hex
        started = came = time.perf_counter()
        status = 0

        async def heard() -> Message:
            nonlocal came
            message = await receive()
            if message["type"] == "http.request" and not message.get("more_body"):
                came = time.perf_counter()
            return message

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)

        try:
            await self._app(scope, heard, watched)
        except Exception:
            log.exception("internal error", extra={"id": request_id})
            if status:  # too late to say anything else; the server cuts the connection
                raise
            answer = problem(PoseError("this is our mistake; the log has the details"))
            await answer(scope, receive, watched)
        finally:
            _note(scope, request_id, status, time.perf_counter() - started, came - started)


def _note(scope: Scope, request_id: str, status: int, took_s: float, came_s: float) -> None:
    """Count a request that took so long, of which its own way to us took `came_s`."""
    endpoint, code = endpoint_of(scope, status), str(status or 499)  # 499: the client left before the answer
    metrics.requests.labels(endpoint, code).inc()
    metrics.request_seconds.labels(endpoint, code).observe(took_s - came_s)
    client = scope["client"][0] if scope.get("client") else None
    ms = round(took_s * 1e3, 2)
    fields = {"method": scope["method"], "path": scope["path"], "status": status, "ms": ms}
    log.info("request", extra={"id": request_id, "client": client, **fields})


def endpoint_of(scope: Scope, status: int) -> str:
    """The matched route's template, "page" for the page's files, else "unknown": a bounded set, whatever is asked."""
    route: Any = scope.get("route")
    if route is not None:
        return str(route.path)
    return "page" if 200 <= status < 400 else "unknown"
