"""Child processes of a chaos run, restarted when they end, as a service manager would."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

_CLI = (sys.executable, "-c", "from cache_pipeline.cli.main import main; main()")


def cli_command(*arguments: str) -> list[str]:
    """Return the command that runs ``cache-pipeline`` with arguments."""
    return [*_CLI, *arguments]


def start_process(
    command: Sequence[str], environment: Mapping[str, str], folder: Path, log: Path
) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own and append its output to a log file."""
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
    """Kill a process and its children with SIGKILL and wait for it."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class SupervisedProcess:
    """A process that a thread restarts whenever it ends.

    Attributes:
        name: Name of the process and of its log file.
        unexpected_exits: How often it ended without being killed by the run.
    """

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], folder: Path) -> None:
        self.name = name
        self.unexpected_exits = 0
        self._start_arguments = (command, environment, folder, folder / f"{name}.log")
        self._restart_allowed = threading.Event()
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._supervise, daemon=True)

    @property
    def pid(self) -> int | None:
        """The id of the process that runs now, or None."""
        with self._lock:
            is_running = self._process is not None and self._process.poll() is None
            return self._process.pid if self._process is not None and is_running else None

    def start(self) -> None:
        """Start the process and its supervision."""
        self._restart_allowed.set()
        self._thread.start()

    def kill(self) -> None:
        """Kill the process with SIGKILL and keep it down until `allow_restart`."""
        self._restart_allowed.clear()
        with self._lock:
            if self._process is not None:
                kill(self._process)

    def signal(self, number: int) -> None:
        """Send a signal if the process runs."""
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                self._process.send_signal(number)

    def allow_restart(self) -> None:
        """Let the supervision start the process again."""
        self._restart_allowed.set()

    def stop(self) -> None:
        """Terminate the process gracefully, or kill it after 30 seconds, and end the supervision."""
        self._stopping.set()
        self._restart_allowed.clear()
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                self._process.terminate()
                try:
                    self._process.wait(30)
                except subprocess.TimeoutExpired:
                    kill(self._process)
        self._thread.join()

    def _supervise(self) -> None:
        while not self._stopping.wait(0.1):
            with self._lock:
                is_running = self._process is not None and self._process.poll() is None
                if is_running or not self._restart_allowed.is_set() or self._stopping.is_set():
                    continue
                if self._process is not None and self._process.returncode != -signal.SIGKILL:
                    self.unexpected_exits += 1
                self._process = start_process(*self._start_arguments)
