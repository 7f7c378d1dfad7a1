"""The disk that the edge folder lies on, and how it runs full."""

import contextlib
import resource
import subprocess
from pathlib import Path

_BYTES = 8 * 2**20
_NO_MORE = 1024


class EdgeDisk:
    """A small file system of its own where we may mount one; else publishers may write no file longer than a kilobyte.

    Attributes:
        is_real: whether it is a file system of its own.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._limited: int | None = None
        self.is_real = False

    def make(self) -> None:
        """Make the folder, mounted if possible."""
        self._folder.mkdir()
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={_BYTES}", "tmpfs", str(self._folder)],
            capture_output=True,
            check=False,
        )
        self.is_real = mounted.returncode == 0

    def fill(self, publisher: "subprocess.Popen[bytes] | None") -> None:
        """Leave no room, for this process at least."""
        if self.is_real:
            with contextlib.suppress(OSError), (self._folder / "filler").open("wb", buffering=0) as filler:
                while True:
                    filler.write(b"\0" * 4096)
        elif publisher is not None and publisher.poll() is None and hasattr(resource, "prlimit"):
            self._limited = publisher.pid
            resource.prlimit(publisher.pid, resource.RLIMIT_FSIZE, (_NO_MORE, resource.RLIM_INFINITY))

    def empty(self) -> None:
        """Give the room back."""
        (self._folder / "filler").unlink(missing_ok=True)
        if self._limited is not None:
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(self._limited, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            self._limited = None

    def remove(self) -> None:
        """Unmount it."""
        if self.is_real:
            subprocess.run(["umount", str(self._folder)], capture_output=True, check=False)
