"""Runs `owner_program` and looks at the processes it causes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("owner_program.py")


class OwnerProcess:
    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self.process = process
        self.folder = folder

    def first_line(self) -> dict[str, Any]:
        return json.loads(self.process.stdout.readline())

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def owner_process(
    folder: Path, *arguments: str, python: str = sys.executable, python_path: tuple[Path, ...] = (), **popen: Any
) -> Iterator[OwnerProcess]:
    """The program, in a process group of its own; it is killed at the end should it still live."""
    process = subprocess.Popen(
        [python, str(PROGRAM), str(folder), *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (*python_path, ROOT)))},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **popen,
    )
    with process:
        try:
            yield OwnerProcess(process, folder)
        finally:
            process.kill()


def lock_file(folder: Path) -> dict[str, Any]:
    """What the lock file says, {} while nobody holds the folder."""
    try:
        return json.loads((folder / "lock").read_text())
    except (OSError, ValueError):
        return {}


def server_pids(folder: Path) -> dict[str, int]:
    """The servers' process ids by their programs' names."""
    return {process["program"]: process["pid"] for process in lock_file(folder)["processes"]}


def wait_until_ended(pids: list[int], seconds: float = 10) -> None:
    """Wait for processes to end.

    Raises:
        TimeoutError: some live on.
    """
    deadline = time.monotonic() + seconds
    while living := [pid for pid in pids if lives(pid)]:
        if time.monotonic() > deadline:
            raise TimeoutError(f"still alive: {living}")
        time.sleep(0.02)


def wait_until_reaped(pid: int, seconds: float = 10) -> None:
    """Wait until a server's end has been seen by its supervisor, which is when its process id is free.

    Raises:
        TimeoutError: it was not.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.02)
    raise TimeoutError(f"not reaped: {pid}")


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(state) and not state.startswith("Z")


def interrupt_group(process: subprocess.Popen[str]) -> None:
    """What Ctrl-C in a terminal does."""
    os.killpg(process.pid, signal.SIGINT)
