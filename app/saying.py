"""What a command says that fails: one line for what its user can mend, a traceback for our own mistakes."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from app.errors import StartError


def ended(error: Exception) -> typer.Exit:
    """The end of a command, its reason said."""
    typer.echo(f"okdhp: {error}", err=True)
    return typer.Exit(2)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """What a user can mend is said in one line; anything else keeps its traceback."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        yield
    except BrokenPipeError:  # whoever read the output has enough
        raise typer.Exit(0) from None
    except (ValueError, ArithmeticError, OSError, StartError) as error:
        raise ended(error) from None
