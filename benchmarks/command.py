"""What the benchmarks' command lines share: counts that have a least, and one line for what their user can mend."""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer

from app import saying


def at_least(least: float, kind: type[int] | type[float] = int) -> Callable[[str], float]:
    """An argument's type for argparse: a number of that kind which is not smaller."""

    def number(text: str) -> float:
        value = kind(text)
        if not value >= least:  # nor no number at all
            raise argparse.ArgumentTypeError(f"at least {least:g}, got {text}")
        return value

    return number


@contextmanager
def one_line_errors() -> Iterator[None]:
    """As `okdhp` says what its user can mend, outside of typer."""
    try:
        with saying.one_line_errors():
            yield
    except typer.Exit as end:
        sys.exit(end.exit_code)
