"""Who may open a stream, how many at a time, and how a stream ends."""

import asyncio
import base64
import logging
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import asdict, dataclass
from urllib.parse import urlsplit

import orjson
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.websockets import WebSocket, WebSocketDisconnect

from app import metrics
from app.access import check_key, client_of, given_key
from app.errors import ClientError, Draining, PoseError, Unauthorized
from app.settings import DEFAULT_PORTS, Settings

log = logging.getLogger("app.stream")

PROTOCOL = "pose.v1"  # the WebSocket subprotocol; offering it is optional
KEY_PREFIX = "pose.key."  # a browser cannot set headers: it offers a second subprotocol, this and the key in base64url
Client = tuple[str, str]  # an address, and a key or ""
RESTARTS = "the service restarts; connect again"  # in some seconds: whoever does at once may find the same process


class ForbiddenOrigin(ClientError):
    status, title, reason = 403, "Origin not allowed", "origin"


class NoStream(ClientError):
    status, title, reason = 404, "Not found", "not_found"


class End(Exception):
    """The stream must end with this close code (RFC 6455, 7.4) and reason."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason

    async def say(self, websocket: WebSocket, timeout_s: float) -> None:
        """Close the socket; whether the client takes notice is not waited for."""
        with suppress(TimeoutError, RuntimeError, WebSocketDisconnect):  # gone already
            async with asyncio.timeout(timeout_s):
                await websocket.close(self.code, self.reason)


@dataclass
class Frames:
    """How many frames of a stream came, and how many of them were answered by people."""

    received: int = 0
    answered: int = 0


@contextmanager
def noted(address: str) -> Iterator[Frames]:
    """One log line when the stream of `address` ends: why, and its frames."""
    frames, why = Frames(), "cut off: the process ends"
    try:
        yield frames
    except End as end:
        why = f"{end.code}: {end.reason}"
        raise
    except WebSocketDisconnect as closed:
        why = f"{closed.code}: the connection closed"
        raise
    except Exception:
        why = "1011: our mistake"
        raise
    finally:
        log.info("stream ended", extra={"client": address, "why": why, **asdict(frames)})


class Sessions:
    """Counts the open streams, in all and of each client: an address, with one key where keys are set."""

    def __init__(self, settings: Settings) -> None:
        self._limit = settings.stream_max_sessions
        self._limit_per_client = settings.stream_max_sessions_per_address
        self._open: Counter[Client] = Counter()

    @classmethod
    def of(cls, app: Starlette) -> "Sessions":
        """The one counter of this application."""
        if not hasattr(app.state, "stream_sessions"):
            app.state.stream_sessions = cls(app.state.settings)
        sessions: Sessions = app.state.stream_sessions
        return sessions

    @contextmanager
    def enter(self, client: Client) -> Iterator[None]:
        """Count one stream of `client` while the block runs. Raises End where there is no room."""
        if self._open.total() >= self._limit:
            metrics.rejected.labels("sessions").inc()
            raise End(1013, f"too many streams; {self._limit} in all are allowed")
        if self._open[client] >= self._limit_per_client:
            metrics.rejected.labels("client_sessions").inc()
            raise End(1013, f"too many streams of yours; {self._limit_per_client} are allowed")
        self._open[client] += 1
        metrics.stream_sessions.inc()
        try:
            yield
        finally:
            metrics.stream_sessions.dec()
            self._open[client] -= 1
            self._open += Counter()  # forget clients without a stream


@asynccontextmanager
async def admit(websocket: WebSocket, settings: Settings, sessions: Sessions) -> AsyncIterator[Frames]:
    """Open the socket for a client who may come in, and count the stream while the block runs, which counts its frames.

    A foreign origin never gets through the handshake. The other refusals come just after it: a browser shows its page
    the code of a close, but nothing of a failed handshake. Raises End or WebSocketDisconnect.
    """
    if not _origin_allowed(websocket, settings.stream_allowed_origins):
        await deny(
            websocket,
            ForbiddenOrigin("this origin may not open streams; see POSE_STREAM_ALLOWED_ORIGINS"),
            "a foreign origin",
        )
        raise WebSocketDisconnect(1008)
    await websocket.accept(PROTOCOL if PROTOCOL in websocket.scope["subprotocols"] else None)
    with noted(_address(websocket)) as frames, _place(websocket, settings, sessions):
        yield frames


@contextmanager
def _place(websocket: WebSocket, settings: Settings, sessions: Sessions) -> Iterator[None]:
    """Count the stream while the block runs. Raises End for who may not come in, or now."""
    key = given_key(websocket.headers) or _key_of(websocket.scope["subprotocols"])
    if websocket.app.state.pipeline.draining:
        metrics.rejected.labels(Draining.reason).inc()
        raise End(1012, RESTARTS)
    address, user = client_of(_address(websocket)), key if settings.api_keys else ""
    try:
        check_key(key, settings.api_keys)
        websocket.app.state.rate_limit.take(user or address)
    except PoseError as error:
        metrics.rejected.labels(error.reason).inc()
        raise End(1008 if isinstance(error, Unauthorized) else 1013, error.title) from None
    with sessions.enter((address, user)):
        yield


def _address(websocket: WebSocket) -> str:
    return websocket.client.host if websocket.client else "unknown"


def _origin_allowed(websocket: WebSocket, allowed: tuple[str, ...]) -> bool:
    """Browsers name the page's origin and do not let it lie; a client that names none is no browser."""
    origin = websocket.headers.get("origin")
    if origin is None or "*" in allowed or origin in allowed:
        return True
    try:
        page = urlsplit(origin)
        host = urlsplit(f"//{websocket.headers.get('host', '')}")
        port = DEFAULT_PORTS.get(page.scheme)
        return page.hostname is not None and (page.hostname, page.port or port) == (host.hostname, host.port or port)
    except ValueError:  # a port that is no number
        return False


def _key_of(subprotocols: list[str]) -> str:
    for name in subprotocols:
        if name.startswith(KEY_PREFIX):
            text = name.removeprefix(KEY_PREFIX)
            with suppress(ValueError):  # not base64, or not text
                return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
    return ""


async def deny(websocket: WebSocket, error: PoseError, why: str) -> None:
    """Answer the handshake with an ordinary HTTP error; `why` is for the log."""
    metrics.rejected.labels(error.reason).inc()
    fields = {"client": _address(websocket), "origin": websocket.headers.get("origin", "")[:200]}
    log.info(f"stream refused: {why}", extra=fields)
    if "websocket.http.response" in websocket.scope.get("extensions", {}):
        body = orjson.dumps(error.problem())
        await websocket.send_denial_response(Response(body, error.status, media_type="application/problem+json"))
    else:
        await websocket.close(1008)  # becomes a bare 403
