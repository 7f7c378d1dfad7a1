"""Watch the process that needs the servers, so that the supervisor ends with it, however it ends."""

import os
import select
import signal
from types import FrameType
from typing import Final

_POLL_INTERVAL_SECONDS: Final = 0.25


class OwnerGoneError(Exception):
    """The process that needs the servers has ended, or asked for them to stop."""


class Owner:
    """Watches the process that started this one.

    The owner has ended when our standard input, a pipe that only it holds, is closed. A child that it forked may hold the
    pipe too, so we also check our parent process id, which changes when the parent ends.
    """

    def __init__(self, pid: int, pipe: int) -> None:
        """Watch process `pid`, which holds the writing end of the pipe that we read as file descriptor `pipe`."""
        self.pid = pid
        self._pipe = pipe
        self._stop_requested = False

    def install_signal_handlers(self) -> None:
        """Treat SIGTERM and SIGHUP as the end of the owner, and leave Ctrl-C to the owner."""
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def sleep(self, seconds: float) -> None:
        """Sleep for at most a quarter of a second.

        Raises:
            OwnerGoneError: The owner has ended.
        """
        readable, _, _ = select.select([self._pipe], [], [], min(seconds, _POLL_INTERVAL_SECONDS))
        if self._stop_requested or os.getppid() != self.pid or (readable and not os.read(self._pipe, 1)):
            raise OwnerGoneError

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._stop_requested = True
