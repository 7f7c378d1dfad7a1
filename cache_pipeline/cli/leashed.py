"""Starts commands on a leash: they end with the block that started them, and with this process."""

import subprocess
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager


@contextmanager
def leashed(
    command: Sequence[str], environment: Mapping[str, str], *, capture: bool = False
) -> Generator["subprocess.Popen[str]"]:
    """Run a command while the block lasts.

    Args:
        command: program and arguments.
        environment: all of it.
        capture: whether its standard output can be read from the process yielded; its errors stay on the terminal's.
    """
    process = subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", "cache_pipeline.cli.leash", *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE if capture else None,
        stderr=subprocess.PIPE if capture else None,
        text=True,
        env=dict(environment),
        start_new_session=True,
    )
    with process:
        try:
            yield process
        finally:
            if process.stdin is not None:
                process.stdin.close()
            process.wait()
