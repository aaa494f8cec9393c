"""What the log shows of what a client chose."""

import logging
from collections.abc import Iterator

import pytest

from app import logs


@pytest.fixture(autouse=True)
def _loggers_as_they_were() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = before


@pytest.mark.parametrize("terminal", [True, False])
def test_a_path_cannot_write_to_the_operators_screen(
    terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    logs.configure("info")
    logging.getLogger("app.access").info("request", extra={"path": "/\x1b]0;owned\x07\r\nsecond"})
    shown = capsys.readouterr().err
    assert "\x1b]0" not in shown and "\x07" not in shown and shown.count("\n") == 1
    assert r"\x1b]0;owned\x07\r\nsecond" in shown or r"\u001b]0;owned\u0007\r\nsecond" in shown


def test_a_traceback_keeps_its_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    logs.configure("info")
    try:
        raise RuntimeError("broken")
    except RuntimeError:
        logging.getLogger("app").exception("internal error")
    assert capsys.readouterr().err.count("\n") > 3
