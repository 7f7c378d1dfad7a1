"""The disk of the edge folder, and how to fill it up."""

import contextlib
import resource
import subprocess
from pathlib import Path

_BYTES = 8 * 2**20
_MAX_FILE_BYTES = 1024


class EdgeDisk:
    """A small tmpfs if this process may mount one. Otherwise `fill` limits the length of the publisher's files instead.

    Attributes:
        is_mounted: Whether the folder is a file system of its own.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._limited: int | None = None
        self.is_mounted = False

    def create(self) -> None:
        """Create the folder, as a mounted file system if possible."""
        self._folder.mkdir()
        mount = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={_BYTES}", "tmpfs", str(self._folder)],
            capture_output=True,
            check=False,
        )
        self.is_mounted = mount.returncode == 0

    def fill(self, publisher: "subprocess.Popen[bytes] | None") -> None:
        """Use up all free space, or limit the publisher to files of a kilobyte."""
        if self.is_mounted:
            with contextlib.suppress(OSError), (self._folder / "filler").open("wb", buffering=0) as filler:
                while True:
                    filler.write(b"\0" * 4096)
        elif publisher is not None and publisher.poll() is None and hasattr(resource, "prlimit"):
            self._limited = publisher.pid
            resource.prlimit(publisher.pid, resource.RLIMIT_FSIZE, (_MAX_FILE_BYTES, resource.RLIM_INFINITY))

    def free(self) -> None:
        """Free the space again, or lift the limit."""
        (self._folder / "filler").unlink(missing_ok=True)
        if self._limited is not None:
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(self._limited, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            self._limited = None

    def remove(self) -> None:
        """Unmount the file system."""
        if self.is_mounted:
            subprocess.run(["umount", str(self._folder)], capture_output=True, check=False)
