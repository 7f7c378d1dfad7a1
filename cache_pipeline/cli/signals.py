"""Signals of the commands that start servers."""

import signal
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def terminated_like_interrupted() -> Generator[None]:
    """Treat SIGTERM like Ctrl-C, so that servers are stopped cleanly."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
