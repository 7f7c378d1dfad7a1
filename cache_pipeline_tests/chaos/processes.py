"""Our own processes, kept running as a service manager would: whatever ends is started again."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

_COMMAND_LINE = (sys.executable, "-c", "from cache_pipeline.cli.main import main; main()")


def command_line(*arguments: str) -> list[str]:
    """``cache-pipeline`` with arguments."""
    return [*_COMMAND_LINE, *arguments]


def started(command: Sequence[str], environment: Mapping[str, str], folder: Path, log: Path) -> subprocess.Popen[bytes]:
    """A process in a session of its own, whose output is added to a log."""
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def kill(process: subprocess.Popen[bytes]) -> None:
    """kill -9 of a process and of what it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class Kept:
    """A process that is started again whenever it ends.

    Attributes:
        ended_by_itself: how often it ended without being killed by us.
    """

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], folder: Path) -> None:
        self.name = name
        self.ended_by_itself = 0
        self._order = (command, environment, folder, folder / f"{name}.log")
        self._may_run = threading.Event()
        self._over = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._keep, daemon=True)

    def start(self) -> None:
        """Begin to keep it running."""
        self._may_run.set()
        self._thread.start()

    def kill(self) -> None:
        """kill -9; it stays dead until revived."""
        self._may_run.clear()
        with self._lock:
            if self._process is not None:
                kill(self._process)

    def signal(self, number: int) -> None:
        """Send a signal, where it runs."""
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                self._process.send_signal(number)

    def revive(self) -> None:
        """Start it again."""
        self._may_run.set()

    def stop(self) -> None:
        """End it in order, for good."""
        self._over.set()
        self._may_run.clear()
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                self._process.terminate()
                try:
                    self._process.wait(30)
                except subprocess.TimeoutExpired:
                    kill(self._process)
        self._thread.join()

    def _keep(self) -> None:
        while not self._over.wait(0.1):
            with self._lock:
                running = self._process is not None and self._process.poll() is None
                if running or not self._may_run.is_set() or self._over.is_set():
                    continue
                if self._process is not None and self._process.returncode != -signal.SIGKILL:
                    self.ended_by_itself += 1
                self._process = started(*self._order)
