"""Run `owner_program` and inspect the processes that it starts."""

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
    """Run the program in its own process group, and kill it at the end if it is still running."""
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
    """Return the content of the lock file, {} while the folder is free."""
    try:
        return json.loads((folder / "lock").read_text())
    except (OSError, ValueError):
        return {}


def server_pids(folder: Path) -> dict[str, int]:
    """Return the servers' process ids by program name."""
    return {process["program"]: process["pid"] for process in lock_file(folder)["processes"]}


def wait_until_ended(pids: list[int], seconds: float = 10) -> None:
    """Wait for processes to end.

    Raises:
        TimeoutError: Some are still alive.
    """
    deadline = time.monotonic() + seconds
    while alive := [pid for pid in pids if is_alive(pid)]:
        if time.monotonic() > deadline:
            raise TimeoutError(f"still alive: {alive}")
        time.sleep(0.02)


def wait_until_reaped(pid: int, seconds: float = 10) -> None:
    """Wait until the supervisor has reaped an ended server, so that its process id is free.

    Raises:
        TimeoutError: It was not reaped in time.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.02)
    raise TimeoutError(f"not reaped: {pid}")


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(state) and not state.startswith("Z")


def interrupt_group(process: subprocess.Popen[str]) -> None:
    """Do what Ctrl-C in a terminal does."""
    os.killpg(process.pid, signal.SIGINT)
