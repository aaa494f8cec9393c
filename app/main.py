"""The web application: routes, stream, page, errors, and a pipeline that lives as long as the application."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import onnxruntime
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from app import health, metrics, routes
from app.access import RateLimit
from app.door import NoStream, deny
from app.errors import BadParameter, PoseError, StartError
from app.limits import BodyLimit, Record, problem
from app.pipeline import Pipeline
from app.settings import Settings
from app.stream import router as stream_router

PAGE = Path(__file__).parent.parent / "static"
DESCRIPTION = "Human pose estimation: 17 COCO keypoints of everybody in a picture, or in each frame of a stream."


def create_app(settings: Settings) -> FastAPI:
    """The service with these settings. Its lifespan loads and warms the networks (StartError if that fails).

    Raises StartError where the page is missing.
    """
    if not PAGE.is_dir():
        raise StartError(f"the page is missing at {PAGE}: install with pip install -e from a checkout")
    metrics.show_zeros()
    app = FastAPIOffline(  # its /docs works where there is no internet
        redoc_url=None,
        title="okdhp",
        version=metrics.package_version(),
        description=DESCRIPTION,
        lifespan=_lifespan,
        redirect_slashes=False,  # to http:// behind a proxy that is not trusted: the key would go there in clear text
    )
    app.state.settings = settings
    app.state.rate_limit = RateLimit(settings.rate_limit_per_minute)
    app.include_router(routes.router)
    app.include_router(health.router)
    app.include_router(stream_router)
    # The page answers what no route does. Mounted at "/" it would also take GET /pose, which is a 405.
    app.router.default = Page(directory=PAGE, html=True)
    app.add_exception_handler(PoseError, _pose_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes, max_held_bytes=settings.max_held_body_bytes)
    app.add_middleware(Record)
    app.add_middleware(OneLineStart)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    pipeline = Pipeline(app.state.settings)
    await pipeline.warm()
    app.state.pipeline = pipeline
    metrics.build.labels(metrics.package_version(), onnxruntime.__version__).set(1)
    if any(network.engine.provider != "cpu" for network in pipeline.networks.values()):
        metrics.watch_gpu()
    yield
    await pipeline.close()
    metrics.end_process()


async def _pose_error(request: Request, error: Any) -> Response:
    return problem(error)


async def _invalid(request: Request, error: Any) -> Response:
    faults = [
        f"{'.'.join(str(part) for part in fault['loc'][1:])}: "
        f"{'no such option' if fault['type'] == 'extra_forbidden' else fault['msg']}"
        for fault in error.errors()
    ]
    return problem(BadParameter("; ".join(faults)[:1000]))


async def _http_error(request: Request, error: Any) -> Response:
    """What the framework refuses: unknown paths, wrong methods, broken forms."""
    answer = PoseError(str(error.detail))
    answer.status = error.status_code
    answer.title = {404: "Not found", 405: "Method not allowed"}.get(error.status_code, "Bad request")
    answer.reason = {404: "not_found", 405: "method"}.get(error.status_code, "bad_request")
    response = problem(answer)
    response.headers.update(error.headers or {})
    return response


async def _gone(request: Request, error: Exception) -> Response:
    metrics.rejected.labels("disconnected").inc()
    return Response(status_code=499)  # for the log: nobody is there to read it


class Page(StaticFiles):
    """The page's files, for those who read: whatever else is asked of a path without a route, it is unknown."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] in ("GET", "HEAD"):
            await super().__call__(scope, receive, send)
        elif scope["type"] == "websocket":
            await deny(WebSocket(scope, receive, send), NoStream("streams are at /stream"), "no stream there")
        else:
            await scope["app"].router.not_found(scope, receive, send)

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """The file, to be asked for anew each time (a 304 is cheap): its modules must be of one version."""
        response = super().file_response(*args, **kwargs)
        response.headers["Cache-Control"] = "no-cache"
        return response


class OneLineStart:
    """When the start fails, tell the server the reason in one line; the traceback helps no operator."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def shortened(message: Message) -> None:
            if message["type"] == "lifespan.startup.failed":
                last_line = message["message"].strip().splitlines()[-1]
                message = {**message, "message": last_line.removeprefix("app.errors.StartError: ")}
            await send(message)

        await self._app(scope, receive, shortened if scope["type"] == "lifespan" else send)
