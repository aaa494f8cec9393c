"""A disk that is full where a test wants it to be, without being root."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def disk_of(limit: int) -> Iterator[None]:
    """Inside, no file grows beyond `limit` bytes: the system refuses, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
