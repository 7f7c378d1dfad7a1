"""Describe how to run the Valkey server."""

import secrets
import signal
import socket
from pathlib import Path
from typing import Final

from cache_pipeline.embedded.binaries import Wheel
from cache_pipeline.embedded.server_process import LaunchContext, Program

# Nothing is written to disk: Redis holds hot answers and quota records, which are refetched or expired by the next run.
# Nothing is evicted: losing a quota record would let a request through that the quota did not grant.
_CONFIGURATION: Final = """\
bind 127.0.0.1
port {port}
requirepass {password}
appendonly no
save ""
maxmemory 256mb
maxmemory-policy noeviction
daemonize no
logfile ""
"""


def prepare_program(context: LaunchContext, wheel: Wheel, data_dir: Path) -> Program:
    """Describe an empty server with a new password; its working directory is `data_dir/valkey`."""
    folder = data_dir / "valkey"
    folder.mkdir(mode=0o700, exist_ok=True)
    if context.identity:
        context.identity.chown(folder)
    password = secrets.token_urlsafe(24)
    return Program(
        name="Valkey",
        command=lambda _port: [str(wheel.program("valkey-server")), "-"],
        standard_input=lambda port: _CONFIGURATION.format(port=port, password=password).encode(),
        folder=folder,
        log=data_dir / "valkey.log",
        is_ready=lambda _pid, port: _is_ready(port),
        stop_signal=signal.SIGTERM,
        password=password,
    )


def _is_ready(port: int) -> bool:
    # Without the password, because another program may have the port: a reply that asks for a password is proof enough.
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"-NOAUTH")
    except OSError:
        return False
