"""What a command says that fails: one line for what its user can mend, a traceback for our own mistakes."""

import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

import typer

from app.errors import StartError


def ended(error: Exception) -> typer.Exit:
    """The end of a command, its reason said."""
    typer.echo(f"okdhp: {error}", err=True)
    return typer.Exit(2)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """What a user can mend is said in one line; anything else keeps its traceback.

    SIGTERM ends what runs inside as Ctrl-C does, with all that has to be tidied up: also the first process of a
    container, to which it would mean nothing otherwise.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        with _sigterm_unwinds():
            yield
    except BrokenPipeError:  # whoever read the output has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left of it: it is written at the end
        raise typer.Exit(0) from None
    except (ValueError, ArithmeticError, OSError, StartError) as error:
        raise ended(error) from None


@contextmanager
def _sigterm_unwinds() -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)
