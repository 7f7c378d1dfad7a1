"""Claim a data folder: one set of servers uses it at a time, after every server of an earlier set has ended.

The claim is a lock that the kernel holds on an open file. The servers inherit that file, so the lock becomes free only when
the supervisor and every server process have ended, whatever order they were killed in.
"""

import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Final

from cache_pipeline.embedded.binaries import COPY_PREFIX
from cache_pipeline.embedded.errors import EmbeddedServerError

# An active holder may be about to notice that its owner died; a stopping one still writes its last checkpoint.
_ACTIVE_HOLDER_WAIT_SECONDS: Final = 1.0
_STOPPING_HOLDER_WAIT_SECONDS: Final = 30.0


@dataclass(frozen=True)
class RecordedProcess:
    """A server process that the next claim stops if the supervisor was killed before it could."""

    pid: int
    program: str
    stop_signal: int


@dataclass(frozen=True)
class Holder:
    """The content of the lock file: which process holds the folder, and what it started."""

    host: str
    owner: int
    supervisor: int
    stopping: bool = False
    processes: tuple[RecordedProcess, ...] = ()
    copies: tuple[str, ...] = ()

    def is_active(self) -> bool:
        """Return whether the folder is held for a process that still uses it."""
        return not self.stopping and (self.host != socket.gethostname() or _is_alive(self.owner))

    def is_orphaned(self, owner: int) -> bool:
        """Return whether only we, acting for process `owner`, are left to stop the servers."""
        is_abandoned = self.owner == owner or not _is_alive(self.owner)
        return self.host == socket.gethostname() and is_abandoned and not _is_alive(self.supervisor)


@dataclass
class Claim:
    """A folder that is ours until this process and all processes that inherited `descriptor` have ended."""

    descriptor: int
    holder: Holder = field(repr=False)

    def record(self, process: RecordedProcess) -> None:
        """Record a started process and drop those that have ended."""
        alive = tuple(recorded for recorded in self.holder.processes if _is_alive(recorded.pid))
        self.holder = replace(self.holder, processes=(*alive, process))
        self.write()

    def record_copy(self, folder: Path) -> None:
        """Record a temporary folder to remove when the claim is released."""
        self.holder = replace(self.holder, copies=(*self.holder.copies, str(folder)))
        self.write()

    def release(self) -> None:
        """Remove the copies and unlock the folder."""
        _remove_copies(self.holder)
        os.ftruncate(self.descriptor, 0)
        os.close(self.descriptor)

    def mark_stopping(self) -> None:
        """Tell processes that wait for the folder that it will soon be free."""
        self.holder = replace(self.holder, stopping=True)
        self.write()

    def write(self) -> None:
        """Write the holder into the lock file."""
        text = json.dumps(asdict(self.holder)).encode()
        os.ftruncate(self.descriptor, 0)
        os.pwrite(self.descriptor, text, 0)


def claim_folder(data_dir: Path, owner: int, sleep: Callable[[float], None]) -> Claim:
    """Create the folder if necessary and claim it, waiting for servers that are about to end.

    Args:
        data_dir: The data folder, an absolute path.
        owner: The process that the claim is for, named in messages to others who want the folder.
        sleep: Called with seconds between two attempts to lock a folder that is held.

    Raises:
        EmbeddedServerError: Another process uses the folder, or it cannot be written.
    """
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise EmbeddedServerError(
            f"Cannot write in the data folder {data_dir}: {error.strerror} ({error.filename}). "
            "Choose a folder that you own, or correct its permissions."
        ) from error
    try:
        _take_lock(descriptor, data_dir, owner, sleep)
    except BaseException:
        os.close(descriptor)
        raise
    if earlier := _read_holder(descriptor):
        _remove_copies(earlier)
    claim = Claim(descriptor, Holder(socket.gethostname(), owner, os.getpid()))
    claim.write()
    return claim


def _take_lock(descriptor: int, data_dir: Path, owner: int, sleep: Callable[[float], None]) -> None:
    started_at = time.monotonic()
    stopped_orphans = False
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        holder = _read_holder(descriptor)
        if holder and holder.is_orphaned(owner) and not stopped_orphans:
            _stop_processes(holder)
            stopped_orphans = True
        timeout = _ACTIVE_HOLDER_WAIT_SECONDS if holder and holder.is_active() else _STOPPING_HOLDER_WAIT_SECONDS
        if time.monotonic() - started_at > timeout:
            raise EmbeddedServerError(_describe_holder(data_dir, holder))
        sleep(0.02)


def _describe_holder(data_dir: Path, holder: Holder | None) -> str:
    if holder is None:
        return f"The data folder {data_dir} is in use by another process. Stop it, or choose another folder."
    where = "" if holder.host == socket.gethostname() else f" on {holder.host}"
    if holder.is_active():
        return (
            f"The data folder {data_dir} is in use by process {holder.owner}{where}, whose embedded servers run in it. "
            "Stop that process, or choose another folder."
        )
    pids = ", ".join(str(pid) for pid in (holder.supervisor, *(process.pid for process in holder.processes)))
    return (
        f"The data folder {data_dir} is still held by servers of process {holder.owner}{where}, which has ended, and "
        f"they did not stop within {_STOPPING_HOLDER_WAIT_SECONDS:.0f} s. Stop them (among processes {pids}), or choose "
        "another folder."
    )


def _read_holder(descriptor: int) -> Holder | None:
    try:
        content = json.loads(os.pread(descriptor, 65536, 0))
        processes = tuple(RecordedProcess(**process) for process in content.pop("processes"))
        return Holder(copies=tuple(content.pop("copies")), processes=processes, **content)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None  # empty, or read while its holder was rewriting it


def _stop_processes(holder: Holder) -> None:
    for process in holder.processes:
        # The process id may belong to another program by now: the lock only proves that some process of ours is alive.
        if process.program in _read_program_name(process.pid):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process.pid, signal.Signals(process.stop_signal))


def _remove_copies(holder: Holder) -> None:
    for copy in map(Path, holder.copies):
        if copy.name.startswith(COPY_PREFIX):
            shutil.rmtree(copy, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it exists and belongs to another user
    # In a container whose first process does not reap children, ended processes keep their ids as zombies.
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return True


def _read_program_name(pid: int) -> str:
    proc_entry = Path(f"/proc/{pid}/comm")
    if proc_entry.exists():
        return proc_entry.read_text()
    result = subprocess.run(["ps", "-o", "comm=", "-p", str(pid)], capture_output=True, text=True, check=False)  # noqa: S603, S607
    return result.stdout
