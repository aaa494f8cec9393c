"""What an operator can set: environment variables POSE_* and a `.env` file. Nothing is read at import."""

import os
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app import envfile
from app.errors import StartError
from app.rounds import most_looks

PREFIX = "POSE_"
ENV_FILE = Path(".env")
WEIGHTS = Path(__file__).parent.parent / "weights"
DEFAULT_PORTS = {"http": 80, "https": 443}

Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def _split(value: Any) -> Any:
    """Raises ValueError for a text that is there and names nothing: no keys from "," would open the service to all.

    And for bytes that are no UTF-8, which Python hands on as lone surrogates: no key could be compared with them.
    """
    if not isinstance(value, str):
        return value
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise ValueError("is not UTF-8 text")
    parts = tuple(part.strip() for part in value.split(",") if part.strip())
    if value and not parts:
        raise ValueError("names nothing: leave it empty, or give values with commas between them")
    return parts


def _proxies(values: tuple[str, ...]) -> tuple[str, ...]:
    """Raises ValueError for what no client's address can be or lie in: the header would silently count for nothing."""
    for value in values:
        try:
            if values != ("*",):
                ip_network(value)
        except ValueError:
            wanted = "an address (10.0.0.7) nor a network (10.0.0.0/8); * alone stands for all"
            raise ValueError(f"{value!r} is neither {wanted}") from None
    return values


def _origins(values: tuple[str, ...]) -> tuple[str, ...]:
    """Raises ValueError for what no browser sends as its page's origin (RFC 6454, 6.2): it would let nobody in."""
    for value in values:
        if value not in ("*", "null") and value != _origin(value):
            wanted = "as browsers send it (https://example.com, http://localhost:3000); * stands for all"
            raise ValueError(f"{value!r} is no origin {wanted}")
    return values


def _origin(url: str) -> str | None:
    """scheme://host[:port] of a URL, in small letters, without the scheme's own port; None where it has no host."""
    try:
        parts = urlsplit(url)
        port = "" if parts.port in (None, DEFAULT_PORTS.get(parts.scheme)) else f":{parts.port}"
    except ValueError:  # a port that is no number
        return None
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{parts.scheme}://{host}{port}" if host else None


CommaSeparated = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]


class Settings(BaseSettings):
    """Every setting, with its default and its unit. `Settings.load()` reads the environment and refuses strangers."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_file=ENV_FILE, extra="ignore", frozen=True, validate_default=True
    )

    host: str = Field("0.0.0.0", description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least important log line")

    pose_model: Path = Field(WEIGHTS / "pose.onnx", description="ONNX file of the pose network")
    detector_model: Path = Field(WEIGHTS / "detector.onnx", description="ONNX file of the person detector")
    provider: Literal["auto", "cuda", "tensorrt", "cpu"] = Field("auto", description="where the networks run")
    intra_op_threads: int = Field(0, ge=0, description="CPU threads per network; 0: what the container may use")

    min_score: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = Field(
        0.18, description="people with a smaller score are not reported, unless a client sets min_score"
    )
    max_batch: Count = Field(16, description="crops or pictures in one run of a network")
    max_delay_ms: float = Field(
        2.0, ge=0, allow_inf_nan=False, description="longest wait for company in a batch, while the network is busy"
    )
    max_run_ms: float = Field(
        100.0,
        gt=0,
        allow_inf_nan=False,
        description="longest run of a network: where one would take longer, as on a busy CPU, it gets fewer at a time",
    )
    max_waiting: Count = Field(
        256,
        description="crops or looks at pictures in a network's queue, and requests in line for it or for a place, "
        "before clients are told to come back",
    )

    max_body_bytes: Count = Field(20_000_000, description="bytes in a request's body")
    max_held_body_bytes: Count = Field(
        400_000_000,
        description="bytes of the bodies of all requests that are not answered yet; POSE_MAX_BODY_BYTES at least",
    )
    max_pixels: Count = Field(50_000_000, description="pixels in a picture")
    max_decoded_pixels: Count = Field(
        100_000_000,
        description="pixels of decoded pictures of more than 2,097,152 held at a time; POSE_MAX_PIXELS at least",
    )
    max_people: Count = Field(50, description="people in a picture, whatever the client asks")
    tiles: Count = Field(
        2, description="overlapping tiles a side in which a large picture is looked at, too, unless a client sets tiles"
    )
    max_tiles: Count = Field(4, le=8, description="tiles a side, whatever the client asks; 8 at most")
    max_images: Count = Field(8, description="pictures in a request")
    request_deadline_ms: Count = Field(10_000, description="time to answer, from the last byte of the body")
    body_timeout_s: Seconds = Field(30.0, description="time for a request's body to arrive")
    api_keys: CommaSeparated = Field((), repr=False, description="accepted keys, comma-separated; empty: open to all")
    rate_limit_per_minute: int = Field(0, ge=0, description="requests of one client; 0: no limit")
    drain_s: float = Field(
        5.0,
        ge=0,
        allow_inf_nan=False,
        description="after SIGTERM new work gets a 503 for so long, then the doors close",
    )
    trusted_proxies: Annotated[CommaSeparated, AfterValidator(_proxies)] = Field(
        ("127.0.0.1",), description="addresses or networks whose X-Forwarded-For says who the client is; * for all"
    )

    stream_max_sessions: Count = Field(64, description="streams at a time")
    stream_max_sessions_per_address: Count = Field(
        8, description="streams at a time from one address, with one key where keys are set"
    )
    stream_max_message_bytes: Count = Field(4_000_000, description="bytes in one message of a stream")
    stream_idle_timeout_s: Seconds = Field(
        30.0, description="silence after which a stream that is owed nothing is closed"
    )
    stream_max_age_s: Seconds = Field(3600.0, description="age at which a stream is closed")
    stream_send_timeout_s: Seconds = Field(5.0, description="time a client has to take an answer")
    stream_detect_every_frames: Count = Field(15, description="frames between two runs of the detector")
    stream_tiles: Count = Field(1, description="as POSE_TILES, for a stream's frames, unless a client sets tiles")
    stream_allowed_origins: Annotated[CommaSeparated, AfterValidator(_origins)] = Field(
        (), description="other web origins that may open streams, comma-separated; * for all; empty: the service's own"
    )

    @property
    def most_of_a_picture(self) -> int:
        """Crops, or looks of the detector, that one picture may send to a network's queue together."""
        return max(self.max_people, most_looks(self.max_tiles))

    @model_validator(mode="after")
    def _nothing_contradicts_itself(self) -> "Settings":
        for name, tiles in (("tiles", self.tiles), ("stream_tiles", self.stream_tiles)):
            if tiles > self.max_tiles:
                limit = f"POSE_MAX_TILES ({self.max_tiles})"
                raise ValueError(f"POSE_{name.upper()} ({tiles}) must be at most {limit}")
        if self.max_held_body_bytes < self.max_body_bytes:
            most = f"a body of POSE_MAX_BODY_BYTES ({self.max_body_bytes})"
            raise ValueError(f"POSE_MAX_HELD_BODY_BYTES ({self.max_held_body_bytes}) must hold {most}")
        if self.max_decoded_pixels < self.max_pixels:
            most = f"a picture of POSE_MAX_PIXELS ({self.max_pixels})"
            raise ValueError(f"POSE_MAX_DECODED_PIXELS ({self.max_decoded_pixels}) must hold {most}")
        if self.max_waiting < self.most_of_a_picture:
            looks = most_looks(self.max_tiles)
            most = f"POSE_MAX_PEOPLE ({self.max_people}) and, of POSE_MAX_TILES, {looks} looks, whichever is more"
            raise ValueError(f"POSE_MAX_WAITING ({self.max_waiting}) must hold one picture's {most}")
        return self

    @classmethod
    def load(cls, **overrides: Any) -> "Settings":
        """Settings from the environment, `.env` and `overrides` (these win). Raises StartError in one line."""
        known = {PREFIX + name.upper() for name in cls.model_fields}
        given = {name.upper() for name in (*os.environ, *envfile.names_in(ENV_FILE))}
        strangers = sorted(name for name in given if name.startswith(PREFIX) and name not in known)
        if strangers:
            raise StartError(f"unknown setting {', '.join(strangers)}")
        try:
            return cls(**overrides)
        except ValidationError as error:
            raise StartError("; ".join(_sentence(fault) for fault in error.errors())) from None


def _sentence(fault: Any) -> str:
    name = PREFIX + "_".join(str(part) for part in fault["loc"][:1]).upper() if fault["loc"] else "settings"
    given = f" (got {fault['input']!r})" if fault["loc"] and "API_KEYS" not in name else ""
    return f"{name}: {fault['msg'].removeprefix('Value error, ')}{given}"
