"""The claim on a data folder: one set of servers at a time, and none of an earlier set still alive.

The claim is a lock that the kernel keeps with an open file. The servers inherit that file, so the lock is free only when
the supervisor and every process of every server have ended, whoever killed whom.
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

# A holder that lives may be about to notice that its owner died; one that is stopping writes a last checkpoint.
_WAIT_FOR_LIVING_SECONDS: Final = 1.0
_WAIT_FOR_ENDING_SECONDS: Final = 30.0


@dataclass(frozen=True)
class LeftProcess:
    """A process that the next claim stops, should the supervisor be killed before it could."""

    pid: int
    program: str
    stop_signal: int


@dataclass(frozen=True)
class Holder:
    """What the lock file says about who holds the folder."""

    host: str
    owner: int
    supervisor: int
    stopping: bool = False
    processes: tuple[LeftProcess, ...] = ()
    copies: tuple[str, ...] = ()

    def lives(self) -> bool:
        """Whether the folder is held for a process that means to go on holding it."""
        return not self.stopping and (self.host != socket.gethostname() or _alive(self.owner))

    def is_orphaned(self, owner: int) -> bool:
        """Whether nobody is left to stop the servers but us, who act for process `owner`."""
        deserted = self.owner == owner or not _alive(self.owner)
        return self.host == socket.gethostname() and deserted and not _alive(self.supervisor)


@dataclass
class Claim:
    """A folder that is ours until the process ends and all who inherited `descriptor` have ended too."""

    descriptor: int
    holder: Holder = field(repr=False)

    def record(self, process: LeftProcess) -> None:
        """Note a process that was started, and forget those that have ended."""
        living = tuple(known for known in self.holder.processes if _alive(known.pid))
        self.holder = replace(self.holder, processes=(*living, process))
        self.write()

    def record_copy(self, folder: Path) -> None:
        """Note a temporary folder that is to be removed in the end."""
        self.holder = replace(self.holder, copies=(*self.holder.copies, str(folder)))
        self.write()

    def release(self) -> None:
        """Remove what was copied, and let go of the folder."""
        _remove_copies(self.holder)
        os.ftruncate(self.descriptor, 0)
        os.close(self.descriptor)

    def mark_stopping(self) -> None:
        """Tell whoever waits for the folder that it will soon be free."""
        self.holder = replace(self.holder, stopping=True)
        self.write()

    def write(self) -> None:
        """Say in the lock file who holds the folder."""
        text = json.dumps(asdict(self.holder)).encode()
        os.ftruncate(self.descriptor, 0)
        os.pwrite(self.descriptor, text, 0)


def claim_folder(data_dir: Path, owner: int, sleep: Callable[[float], None]) -> Claim:
    """Make the folder if need be and claim it, waiting for servers that are about to end.

    Args:
        data_dir: the data folder, an absolute path.
        owner: the process that the claim is for, as named to others who want the folder.
        sleep: sleeps for some seconds between two looks at a folder that is held.

    Raises:
        EmbeddedServerError: another process uses it, or it cannot be written.
    """
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise EmbeddedServerError(
            f"Cannot write in the data folder {data_dir}: {error.strerror} ({error.filename}). "
            "Give a folder that you own, or mend its permissions."
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
    began = time.monotonic()
    stopped_orphans = False
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        holder = _read_holder(descriptor)
        if holder and holder.is_orphaned(owner) and not stopped_orphans:
            _stop_processes(holder)
            stopped_orphans = True
        patience = _WAIT_FOR_LIVING_SECONDS if holder and holder.lives() else _WAIT_FOR_ENDING_SECONDS
        if time.monotonic() - began > patience:
            raise EmbeddedServerError(_in_use(data_dir, holder))
        sleep(0.02)


def _in_use(data_dir: Path, holder: Holder | None) -> str:
    if holder is None:
        return f"The data folder {data_dir} is in use by another process. Stop it, or give another folder."
    where = "" if holder.host == socket.gethostname() else f" on {holder.host}"
    if holder.lives():
        return (
            f"The data folder {data_dir} is in use by process {holder.owner}{where}, whose embedded servers run in it. "
            "Stop that process, or give another folder."
        )
    left = ", ".join(str(pid) for pid in (holder.supervisor, *(known.pid for known in holder.processes)))
    return (
        f"The data folder {data_dir} is still held by servers of process {holder.owner}{where}, which has ended, and "
        f"they did not stop within {_WAIT_FOR_ENDING_SECONDS:.0f} s. Stop them (among processes {left}), or give "
        "another folder."
    )


def _read_holder(descriptor: int) -> Holder | None:
    try:
        said = json.loads(os.pread(descriptor, 65536, 0))
        processes = tuple(LeftProcess(**process) for process in said.pop("processes"))
        return Holder(copies=tuple(said.pop("copies")), processes=processes, **said)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None  # empty, or caught between two writes of its holder


def _stop_processes(holder: Holder) -> None:
    for process in holder.processes:
        # The number may be another program's by now: the lock says only that one of ours lives.
        if process.program in _program_of(process.pid):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process.pid, signal.Signals(process.stop_signal))


def _remove_copies(holder: Holder) -> None:
    for copy in map(Path, holder.copies):
        if copy.name.startswith(COPY_PREFIX):
            shutil.rmtree(copy, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's
    # In a container whose first process reaps nobody, the dead keep their numbers.
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return True


def _program_of(pid: int) -> str:
    kept_by_kernel = Path(f"/proc/{pid}/comm")
    if kept_by_kernel.exists():
        return kept_by_kernel.read_text()
    asked = subprocess.run(["ps", "-o", "comm=", "-p", str(pid)], capture_output=True, text=True, check=False)  # noqa: S603, S607
    return asked.stdout
