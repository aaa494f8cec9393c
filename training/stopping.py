"""SIGTERM and SIGINT while a network learns: the step under way ends, what was learnt is saved, then the process."""

import signal
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(SystemExit):
    """Training ended by signal `number`, its checkpoint saved; the process's exit code where nobody catches it.

    128 + number, as shells have it for who dies of a signal: what waits for a whole network does not go on.
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)


class Stop:
    """Notes SIGTERM and SIGINT in place of what they would do, until it is released; a call says whether one came.

    number: the signal's, 0 before one came.
    """

    def __init__(self) -> None:
        self.number = 0
        self.before: dict[int, Any] = {number: signal.signal(number, self._note) for number in SIGNALS}

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.number = number

    def __call__(self) -> bool:
        return self.number > 0

    def __enter__(self) -> "Stop":
        return self

    def __exit__(self, *_: object) -> None:
        """Signals are handled as before."""
        for number, handler in self.before.items():
            signal.signal(number, handler)
