"""Log lines: for people on a terminal, JSON for machines elsewhere.

The service and its libraries log through the standard library; structlog only shapes the lines.
"""

import logging
import sys
from typing import Any

import structlog


def configure(level: str) -> None:
    """Log from `level` ("debug", "info", "warning" or "error") on, one line an event, to standard error."""
    terminal = sys.stderr.isatty()
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    renderer = structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer()

    def harmless(logger: object, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        """A client chooses a request's path: on a terminal its control characters would be obeyed."""
        return {name: value if name == "exception" else _printable(value) for name, value in event.items()}

    def colourless(logger: object, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        event.pop("color_message", None)  # uvicorn's second copy of each line
        return event

    remove_meta = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[remove_meta, colourless, *([harmless] if terminal else []), renderer],
        )
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def _printable(value: Any) -> Any:
    if not isinstance(value, str) or value.isprintable():
        return value
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in value)
