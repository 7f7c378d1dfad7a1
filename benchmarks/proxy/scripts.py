"""Scripts that use the vendor's SDK, each in a process of its own."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from benchmarks.result import BenchmarkError

_PROGRAM = Path(__file__).with_name("sdk_script.py")


@dataclass(frozen=True)
class Answer:
    """An answer to a call.

    Attributes:
        status: 200 for figures.
        seconds: How long the call took.
        document: The figures; None for a refusal.
    """

    status: int
    seconds: float
    document: dict[str, Any] | None


class Script:
    """A process that calls the SDK as it is told, and logs in once."""

    def __init__(self, into: IO[str], out: IO[str]) -> None:
        self._into, self._out = into, out

    def call(self, method: str, body: Mapping[str, Any]) -> Answer:
        """Call a method of the analytics API and wait for the answer.

        Raises:
            BenchmarkError: The process has ended.
        """
        self._send({"method": method, "body": body})
        line = self._out.readline()
        if not line:
            raise BenchmarkError("a script of the SDK ended; see its output above")
        return Answer(**json.loads(line))

    def log_in(self, host: Mapping[str, str]) -> None:
        """Tell the process its host."""
        self._send(host)

    def _send(self, message: Mapping[str, Any]) -> None:
        self._into.write(json.dumps(message) + "\n")
        self._into.flush()


@contextmanager
def running_script(host: Mapping[str, str], folder: Path) -> Generator[Script]:
    """Run a script while the block lasts.

    Args:
        host: The `url`, `id` and `secret`.
        folder: Where the process gets a home of its own.
    """
    process = subprocess.Popen(  # noqa: S603 - this interpreter, with a program of ours
        [sys.executable, "-W", "ignore", str(_PROGRAM)],
        env={**os.environ, "HOME": tempfile.mkdtemp(dir=folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        if process.stdin is None or process.stdout is None:
            raise BenchmarkError("a script of the SDK has no pipes")
        script = Script(process.stdin, process.stdout)
        script.log_in(host)
        yield script
    finally:
        process.terminate()
        process.wait()
