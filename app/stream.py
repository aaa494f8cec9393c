"""WebSocket /stream: frames in, people with stable ids out; the newest frame wins.

    client --frames--> _read --one-slot mailbox--> _answer --JSON--> client

`_read` never waits for a network, so a slow server drops frames instead of falling behind. Messages and close codes are
described at `stream` below.
"""

import asyncio
import logging
import time
from typing import Any, NoReturn

import orjson
from fastapi import APIRouter
from pydantic import ValidationError
from starlette.websockets import WebSocket, WebSocketDisconnect

from app import metrics
from app.deadline import before
from app.door import RESTARTS, End, Frames, Sessions, admit
from app.errors import BadParameter, ClientError, DeadlinePassed, Draining, ModelError, PoseError, UpgradeRequired
from app.following import Follower
from app.formats import native_person
from app.mailbox import Frame, Mailbox
from app.pipeline import Person, Pipeline
from app.schemas import StreamOptions
from app.settings import Settings
from app.tracking import PAUSE_S, TrackedPerson
from app.turns import LIVE

log = logging.getLogger("app.stream")
router = APIRouter()

MOST_CHARACTERS = 10_000  # characters of a text message: to read a million keys holds all streams up for seconds
NO_OPTIONS = f"text messages are JSON options of at most {MOST_CHARACTERS} characters; send frames as binary messages"


@router.get("/stream", include_in_schema=False, response_model=None)
async def no_websocket() -> NoReturn:
    """What a proxy asks for that does not pass the upgrade on."""
    raise UpgradeRequired("streams are WebSockets: a proxy in front must pass the headers Upgrade and Connection on")


@router.websocket("/stream")
async def stream(websocket: WebSocket) -> None:
    """One client's stream.

    In: binary messages, each a JPEG, PNG or WebP frame; text messages, each a JSON object of StreamOptions.
    Out, for each frame that is processed: {"frame", "image", "people", "timing_ms", "age_ms", "dropped"}, or
    {"error": RFC 9457 members, "frame"}; for refused options the same with "frame": null. No error ends the stream.

    Ends: 1001 idle or too old, 1003 text that is no options, 1008 API key, 1011 our mistake, 1012 restart, 1013 too
    many streams or requests. What is against the protocol or too big never gets here (1002, 1007, 1009), a client who
    does not read is reset without a close (app.websocket), and a foreign origin is refused with 403 before the
    handshake.
    """
    settings: Settings = websocket.app.state.settings
    LIVE.set(True)
    try:
        async with admit(websocket, settings, Sessions.of(websocket.app)) as frames:
            await Session(websocket, websocket.app.state.pipeline, settings, frames).run()
    except WebSocketDisconnect:
        pass
    except End as end:
        await end.say(websocket, settings.stream_send_timeout_s)
    except Exception:
        log.exception("stream failed")
        metrics.rejected.labels(PoseError.reason).inc()
        await End(1011, "our mistake; the log has the details").say(websocket, settings.stream_send_timeout_s)


class Session:
    """One client's stream: its options, its people, its mailbox."""

    def __init__(self, websocket: WebSocket, pipeline: Pipeline, settings: Settings, frames: Frames) -> None:
        self._websocket = websocket
        self._frames = frames
        self._pipeline = pipeline
        self._settings = settings
        self._options = StreamOptions()
        self._follower = Follower(pipeline, settings)
        self._mailbox = Mailbox()
        self._sending = asyncio.Lock()
        self._busy = False  # with a frame
        self._free_s = time.perf_counter()  # since when it has had nothing to look at
        self._active_s = time.monotonic()  # when the client last said something, or was last answered

    async def run(self) -> NoReturn:
        """Work until the client leaves (WebSocketDisconnect) or the stream must end (End)."""
        tasks = [asyncio.create_task(part()) for part in (self._read, self._answer, self._end_if_idle)]
        try:
            done, _ = await asyncio.wait(
                tasks, timeout=self._settings.stream_max_age_s, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if not self._mailbox.empty:
                metrics.stream_frames.labels("abandoned").inc()
        for task in done:
            task.result()
        raise End(1001, f"streams end after {self._settings.stream_max_age_s:g} seconds; connect again")

    async def _read(self) -> NoReturn:
        """Take every message as it comes."""
        while True:
            message = await self._receive()
            data, text = message.get("bytes"), message.get("text")
            if data is not None:
                detect = self._options.detect or self._paused()
                options = self._options.model_copy(update={"detect": detect})
                self._mailbox.put(Frame(self._frames.received, data, time.perf_counter(), options))
                self._options = self._options.model_copy(update={"detect": False})  # asked for once
                self._frames.received += 1
            else:
                await self._take_options(text or "")

    def _paused(self) -> bool:
        """Whether nobody can tell how far people went since the last frame: then the detector is to look.

        Only the client's silence counts. Looks at what waited for a busy service would keep it busy, and waiting.
        """
        return not self._busy and self._mailbox.empty and time.perf_counter() - self._free_s > PAUSE_S

    async def _receive(self) -> Any:
        message = await self._websocket.receive()
        self._active_s = time.monotonic()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message["code"])
        return message

    async def _end_if_idle(self) -> NoReturn:
        """Who waits for an answer is not idle."""
        idle_s = self._settings.stream_idle_timeout_s
        while True:
            if self._busy or not self._mailbox.empty:
                self._active_s = time.monotonic()
            left_s = self._active_s + idle_s - time.monotonic()
            if left_s <= 0:
                raise End(1001, f"no message for {idle_s:g} seconds")
            await asyncio.sleep(left_s)

    async def _take_options(self, text: str) -> None:
        try:
            self._options = self._parsed(text)
        except BadParameter as error:
            await self._refuse(error, None)

    def _parsed(self, text: str) -> StreamOptions:
        """The options after this message. Raises BadParameter, or End for what is too long or no JSON."""
        if len(text) > MOST_CHARACTERS:
            raise _no_options()
        try:
            given = StreamOptions.model_validate_json(text)
        except ValidationError as error:
            faults = error.errors(include_url=False, include_context=False, include_input=False)
            if faults[0]["type"] == "json_invalid":
                raise _no_options() from None
            sentences = [": ".join([*(str(part) for part in fault["loc"]), fault["msg"]]) for fault in faults]
            raise BadParameter("; ".join(sentences)[:1000]) from None
        if (given.max_people or 0) > self._settings.max_people:
            raise BadParameter(f"max_people: at most {self._settings.max_people} here")
        if (given.tiles or 0) > self._settings.max_tiles:
            raise BadParameter(f"tiles: at most {self._settings.max_tiles} here")
        return self._options.model_copy(update={name: getattr(given, name) for name in given.model_fields_set})

    def _apply(self, options: StreamOptions) -> None:
        """What a frame came with holds for it, not for one that is being worked on when the options come.

        Who is only wanted from now on may be followed by nobody yet: the detector is to look at once.
        """
        follower, tracker = self._follower, self._follower.tracker
        before = self._wanted()
        follower.min_score = options.min_score
        follower.tiles = options.tiles or self._settings.stream_tiles
        tracker.max_people = options.max_people or self._settings.max_people
        tracker.min_score = self._settings.min_score if options.min_score is None else options.min_score
        tracker.detect_every_frames = options.detect_every or self._settings.stream_detect_every_frames
        tracker.smoothing = options.smoothing
        if options.detect or any(new > old for new, old in zip(self._wanted(), before, strict=True)):
            tracker.ask_detector()

    def _wanted(self) -> tuple[float, ...]:
        """How many people, how unsure (to the service, and to the detector) and how small; more of any is more."""
        follower, tracker = self._follower, self._follower.tracker
        least = self._pipeline.detector.min_score if follower.min_score is None else follower.min_score
        return tracker.max_people, -tracker.min_score, -least, follower.tiles

    async def _answer(self) -> NoReturn:
        """Work on the newest frame, for ever."""
        while True:
            frame = await self._mailbox.take()
            self._busy, outcome = True, "abandoned"  # by whoever ends the stream before it has its answer
            try:
                outcome = await self._answer_one(frame)
            finally:
                metrics.stream_frames.labels(outcome).inc()
                self._busy, self._active_s = False, time.monotonic()
                if outcome != "bad":
                    self._free_s = time.perf_counter()

    async def _answer_one(self, frame: Frame) -> str:
        """Returns the frame's label in pose_stream_frames_total. Raises End where the service is about to stop."""
        self._apply(frame.options)
        try:
            if self._pipeline.draining:
                raise Draining()
            answer = await self._people_of(frame)
        except Draining:
            raise End(1012, RESTARTS) from None
        except PoseError as error:
            await self._refuse(error, frame.number)
            return _outcome(error)
        age_s = time.perf_counter() - frame.received_s
        await self._send({**answer, "age_ms": round(age_s * 1e3, 2), "dropped": self._mailbox.dropped})
        self._frames.answered += 1
        metrics.stream_frame_age_seconds.observe(age_s)
        return "answered"

    async def _people_of(self, frame: Frame) -> dict[str, Any]:
        """The answer to one frame, but for its age. Raises PoseError; the tracker then is as it was before."""
        started = time.perf_counter()
        left_s = self._settings.request_deadline_ms / 1000 - (started - frame.received_s)
        deadline = asyncio.get_running_loop().time() + left_s
        if left_s <= 0:
            raise DeadlinePassed()
        async with before(deadline), self._pipeline.opened(frame.data, deadline) as picture:
            image = picture.image
            people, stages_ms = await self._follower.people(image, frame.received_s, deadline)
        metrics.people_per_image.observe(len(people))
        timing_ms = picture.timing_ms(started, stages_ms)
        return {
            "frame": frame.number,
            "image": {"width": image.shape[1], "height": image.shape[0]},
            "people": [_shaped(person) for person in people],
            "timing_ms": {stage: round(ms, 2) for stage, ms in timing_ms.items()},
        }

    async def _refuse(self, error: PoseError, number: int | None) -> None:
        metrics.rejected.labels(error.reason).inc()
        await self._send({"error": error.problem(), "frame": number})

    async def _send(self, content: dict[str, Any]) -> None:
        """Send JSON; a client who does not take it in time is cut off, because its answers would fill the memory."""
        try:
            async with asyncio.timeout(self._settings.stream_send_timeout_s), self._sending:
                await self._websocket.send_text(orjson.dumps(content).decode())
        except TimeoutError:
            log.warning("stream cut: its client does not read")
            raise WebSocketDisconnect(1006) from None
        except RuntimeError:  # the server closed the socket, and the reader is about to hear of it
            raise WebSocketDisconnect(1006) from None


def _no_options() -> End:
    metrics.rejected.labels(BadParameter.reason).inc()
    return End(1003, NO_OPTIONS)


def _outcome(error: PoseError) -> str:
    """The label of pose_stream_frames_total: bad, failed or overloaded."""
    if isinstance(error, ClientError):
        return "bad"
    return "failed" if isinstance(error, ModelError) else "overloaded"


def _shaped(person: TrackedPerson) -> dict[str, Any]:
    box, keypoints = person.box_xyxy.astype("float32"), person.keypoints.astype("float32")
    scores = person.keypoint_scores.astype("float32")
    return native_person(person.id, Person(person.score, box, keypoints, scores))
