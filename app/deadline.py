"""The end of a request's time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app.errors import DeadlinePassed


@asynccontextmanager
async def before(deadline: float | None) -> AsyncIterator[None]:
    """Stop what is inside at `deadline` (loop time; None: never) with DeadlinePassed."""
    try:
        async with asyncio.timeout_at(deadline):
            yield
    except TimeoutError:
        raise DeadlinePassed() from None
