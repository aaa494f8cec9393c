"""Every way a request can fail, and what the client is told (RFC 9457).

    PoseError
    ├── ClientError               the caller can mend it
    │   ├── BadImage         400  not a picture, or a truncated one
    │   ├── Unauthorized     401  no API key, or a wrong one
    │   ├── SlowBody         408  the body took too long to arrive
    │   ├── TooLarge         413  more bytes or pixels than allowed
    │   ├── UnsupportedFormat 415 not JPEG, PNG or WebP
    │   ├── BadParameter     422  an option that is unknown or out of range
    │   ├── UpgradeRequired  426  a stream asked for without WebSocket
    │   └── RateLimited      429  this client asks too often; carries retry_after_s
    └── ServerError               the caller may try again
        ├── ModelError       500  the network failed on this batch
        ├── Overloaded       503  more waits than can be served; carries retry_after_s
        ├── Draining         503  the service is about to stop; carries retry_after_s
        └── DeadlinePassed   504  no answer within the time allowed

StartError stands apart: the service cannot start, and its text is the one line that says why.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class PoseError(Exception):
    """Base of what a client may be told. `detail` is one sentence, free of internals."""

    status = 500
    title = "Internal error"
    reason = "internal"  # for programs, and the label of pose_rejected_total: a small fixed set

    def __init__(self, detail: str, *, retry_after_s: int | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after_s = retry_after_s

    def problem(self) -> dict[str, Any]:
        """The members of the application/problem+json body; `reason` is an extension (RFC 9457, 3.2)."""
        told = {"title": self.title, "status": self.status, "detail": self.detail, "reason": self.reason}
        return {"type": "about:blank", **told}

    def headers(self) -> dict[str, str]:
        """The headers that belong to the answer."""
        return {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}


class ClientError(PoseError):
    """The request is at fault: sending it again unchanged fails again."""

    status, title, reason = 400, "Bad request", "bad_request"


@contextmanager
def told_apart(number: int, count: int) -> Iterator[None]:
    """A ClientError inside is of picture `number`, from 1, of `count`: with several pictures its text says which."""
    try:
        yield
    except ClientError as error:
        if count > 1:
            error.detail = f"picture {number} of {count}: {error.detail}"
        raise


class BadImage(ClientError):
    status, title, reason = 400, "Not a readable picture", "bad_image"


class Unauthorized(ClientError):
    status, title, reason = 401, "API key missing or wrong", "unauthorized"

    def headers(self) -> dict[str, str]:
        return {"WWW-Authenticate": "Bearer"}


class SlowBody(ClientError):
    status, title, reason = 408, "Request body too slow", "slow_body"


class TooLarge(ClientError):
    status, title, reason = 413, "Too large", "too_large"


class UnsupportedFormat(ClientError):
    status, title, reason = 415, "Unsupported format", "unsupported_format"


class BadParameter(ClientError):
    status, title, reason = 422, "Bad parameter", "bad_parameter"


class UpgradeRequired(ClientError):
    status, title, reason = 426, "Upgrade required", "upgrade"

    def headers(self) -> dict[str, str]:
        return {"Upgrade": "websocket", "Connection": "Upgrade"}


class RateLimited(ClientError):
    status, title, reason = 429, "Too many requests", "rate_limited"


class ServerError(PoseError):
    """The service is at fault or too busy: the same request may work later."""


class ModelError(ServerError):
    status, title, reason = 500, "Inference failed", "model_error"


class Overloaded(ServerError):
    status, title, reason = 503, "Overloaded", "overloaded"

    def __init__(self, detail: str = "the queue is full", *, retry_after_s: int = 1) -> None:
        super().__init__(detail, retry_after_s=retry_after_s)


class Draining(ServerError):
    status, title, reason = 503, "Shutting down", "draining"

    def __init__(self, detail: str = "the service is shutting down", *, retry_after_s: int = 5) -> None:
        super().__init__(detail, retry_after_s=retry_after_s)


class DeadlinePassed(ServerError):
    status, title, reason = 504, "Deadline passed", "deadline"

    def __init__(self, detail: str = "no answer within the time allowed", *, retry_after_s: int = 1) -> None:
        super().__init__(detail, retry_after_s=retry_after_s)


class StartError(Exception):
    """The service cannot start; the text is one line for the operator."""
