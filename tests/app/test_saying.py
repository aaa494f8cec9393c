"""How a command ends that fails or is ended, whatever it does."""

import signal

import pytest
import typer

from app.errors import StartError
from app.saying import one_line_errors


@pytest.mark.parametrize("error", [ValueError, ZeroDivisionError, FileNotFoundError, StartError])
def test_what_a_user_can_mend_is_one_line_and_a_status_that_is_not_pythons_own(
    error: type[Exception], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as end, one_line_errors():
        raise error("this is wrong")
    assert (end.value.exit_code, capsys.readouterr().err) == (2, "okdhp: this is wrong\n")


def test_a_mistake_of_our_own_keeps_its_traceback() -> None:
    with pytest.raises(KeyError), one_line_errors():
        raise KeyError("unforeseen")


def test_sigterm_unwinds_a_command_and_means_afterwards_what_it_did_before() -> None:
    before, tidied_up = signal.signal(signal.SIGTERM, signal.SIG_IGN), False
    try:
        with pytest.raises(SystemExit) as end, one_line_errors():
            try:
                signal.raise_signal(signal.SIGTERM)
            finally:
                tidied_up = True
        assert (end.value.code, tidied_up) == (128 + signal.SIGTERM, True)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
