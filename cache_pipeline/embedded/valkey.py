"""Valkey: how its server is run."""

import secrets
import signal
import socket
from pathlib import Path
from typing import Final

from cache_pipeline.embedded.binaries import Wheel
from cache_pipeline.embedded.server_process import Host, Program

# Nothing is written to disk: what Redis holds here, hot answers and quota records, is refetched or has expired by the
# next run. Nothing is evicted: a quota record that vanished would let a request through that nobody granted.
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


def prepared_program(host: Host, wheel: Wheel, data_dir: Path) -> Program:
    """The server, with a new password and nothing in it; its working directory is `data_dir/valkey`."""
    folder = data_dir / "valkey"
    folder.mkdir(mode=0o700, exist_ok=True)
    if host.identity:
        host.identity.give(folder)
    password = secrets.token_urlsafe(24)
    return Program(
        name="Valkey",
        command=lambda _port: [str(wheel.program("valkey-server")), "-"],
        standard_input=lambda port: _CONFIGURATION.format(port=port, password=password).encode(),
        folder=folder,
        log=data_dir / "valkey.log",
        answers=lambda _pid, port: _answers(port),
        stop_signal=signal.SIGTERM,
        password=password,
    )


def _answers(port: int) -> bool:
    # Without the password, as the port may be a stranger's: an answer that asks for one is answer enough.
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"-NOAUTH")
    except OSError:
        return False
