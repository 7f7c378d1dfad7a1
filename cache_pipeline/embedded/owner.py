"""The process the servers live for: a supervisor ends with it, however it ended."""

import os
import select
import signal
from types import FrameType
from typing import Final

_LOOK_EVERY_SECONDS: Final = 0.25


class OwnerGoneError(Exception):
    """The process that the servers live for has ended, or wants them to end."""


class Owner:
    """Watches the process that started this one.

    It has gone when our standard input, a pipe that it alone holds, is closed. A child that it forked may hold the pipe
    too, so our parent is looked at as well: an orphan gets another one.
    """

    def __init__(self, pid: int, pipe: int) -> None:
        """Watch process `pid`, whose end of the pipe we read as file descriptor `pipe`."""
        self.pid = pid
        self._pipe = pipe
        self._told_to_stop = False

    def obey_signals(self) -> None:
        """Take SIGTERM and SIGHUP to this process for the owner's going, and leave a Ctrl-C to the owner."""
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def sleep(self, seconds: float) -> None:
        """Sleep, at most for a quarter of a second.

        Raises:
            OwnerGoneError: the owner went.
        """
        readable, _, _ = select.select([self._pipe], [], [], min(seconds, _LOOK_EVERY_SECONDS))
        if self._told_to_stop or os.getppid() != self.pid or (readable and not os.read(self._pipe, 1)):
            raise OwnerGoneError

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._told_to_stop = True
