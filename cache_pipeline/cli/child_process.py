"""Run a command that ends when its parent process ends, for whatever reason.

The starter holds the other end of this process's standard input; when that closes, even by kill -9 of the starter, the
command's whole process group is interrupted, and killed if it does not end by itself.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

_GRACE_SECONDS = 5.0


def main(command: list[str]) -> int:
    """Run ``command`` in a process group of its own; returns its exit code."""
    # The starter decides the order of ending. A handler, since ignoring would be inherited by the command.
    signal.signal(signal.SIGINT, _no_action)
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True) as child:  # noqa: S603

        def watch() -> None:
            # Not through sys.stdin: its lock, held by a thread in a read, is fatal to the interpreter's end.
            while os.read(0, 1024):
                pass
            _end(child)

        threading.Thread(target=watch, daemon=True).start()
        return child.wait()


def _no_action(_number: int, _frame: object) -> None:
    return


def _end(child: "subprocess.Popen[bytes]") -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(child.pid, number)
        except ProcessLookupError:
            return
        try:
            child.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            continue
        # The command has ended; what it started and left behind must not outlive it.
        try:
            os.killpg(child.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        return


if __name__ == "__main__":
    try:
        code = main(sys.argv[1:])
    except OSError as error:
        sys.exit(f"cache-pipeline: {sys.argv[1]} cannot be run: {error.strerror}")
    sys.exit(128 - code if code < 0 else code)


@contextmanager
def start_bound_child(
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    folder: Path | None = None,
    capture: bool = False,
    log: Path | None = None,
) -> Generator["subprocess.Popen[str]"]:
    """Run a command while the block lasts.

    Args:
        command: The program and its arguments.
        environment: All of its environment variables.
        folder: Its working folder; ours by default.
        capture: Whether its standard output and errors can be read from the process yielded, instead of the terminal.
        log: A file to append both to, instead of the terminal.
    """
    with ExitStack() as stack:
        output = stack.enter_context(log.open("ab")) if log else subprocess.PIPE if capture else None
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "cache_pipeline.cli.child_process", *command],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            text=True,
            env=dict(environment),
            cwd=folder,
            start_new_session=True,
        )
    with process:
        try:
            yield process
        finally:
            if process.stdin is not None:
                process.stdin.close()
            process.wait()
