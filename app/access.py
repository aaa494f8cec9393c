"""Who may ask, and how often: API keys and the rate limit, for HTTP and WebSocket alike."""

import hmac
import ipaddress
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence

from app.errors import RateLimited, Unauthorized


def given_key(headers: Mapping[str, str]) -> str:
    """The API key in `X-API-Key` or `Authorization: Bearer`; "" without one."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return headers.get("x-api-key") or (token.strip() if scheme.lower() == "bearer" else "")


def check_key(key: str, api_keys: Sequence[str]) -> None:
    """Raise Unauthorized unless `key` is one of `api_keys`, or there are none. Takes as long for any wrong key.

    A header is read as Latin-1 (RFC 9110, section 5.5); most clients send UTF-8, and either will do. WebKitGTK makes
    UTF-8 of the page's header, which is UTF-8 already: that is read twice.
    """
    if not api_keys:
        return
    sent = key.encode() if any(ord(letter) > 255 for letter in key) else key.encode("latin-1")
    readings = (key.encode(), sent, _read_twice(sent))
    matches = [hmac.compare_digest(one, known.encode()) for known in api_keys for one in readings]
    if not any(matches):
        raise Unauthorized("give a valid key in X-API-Key or Authorization: Bearer")


def _read_twice(sent: bytes) -> bytes:
    """What was made UTF-8 once too often, as it was; other bytes as they are."""
    try:
        return sent.decode().encode("latin-1")
    except UnicodeError:
        return sent


def client_of(address: str) -> str:
    """Who counts as one client: an address, and beyond a site's own ones an IPv6 network of 64 bits.

    A connection to the internet comes with as many addresses, and whoever has it may use each for one request.
    """
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:  # a socket's, or none
        return address
    if isinstance(ip, ipaddress.IPv4Address) or ip.is_private:
        return address
    return str(ip.ipv4_mapped or ipaddress.IPv6Network((ip, 64), strict=False))


class RateLimit:
    """A token bucket per client: `per_minute` requests, all at once or spread; 0 means no limit.

    Remembers the last `max_clients` clients, so that made-up addresses cannot fill the memory.
    """

    def __init__(self, per_minute: int, *, max_clients: int = 10_000) -> None:
        self._per_minute = per_minute
        self._max_clients = max_clients
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # client -> tokens, time

    def take(self, client: str, now_s: float | None = None) -> None:
        """Count one request of `client` at `now_s` (monotonic seconds). Raises RateLimited, with when to come back."""
        if not self._per_minute:
            return
        now_s = time.monotonic() if now_s is None else now_s
        tokens, last_s = self._buckets.pop(client, (float(self._per_minute), now_s))
        tokens = min(self._per_minute, tokens + (now_s - last_s) * self._per_minute / 60)
        allowed = tokens >= 1
        self._buckets[client] = (tokens - allowed, now_s)
        if len(self._buckets) > self._max_clients:
            self._buckets.popitem(last=False)
        if not allowed:
            wait_s = (1 - tokens) * 60 / self._per_minute
            raise RateLimited(
                f"more than {self._per_minute} requests a minute", retry_after_s=max(1, round(wait_s + 0.5))
            )
