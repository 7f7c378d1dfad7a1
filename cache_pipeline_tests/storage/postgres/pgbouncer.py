"""A PgBouncer in transaction mode in front of a PostgreSQL server, as managed services put one in front of theirs."""

import os
import socket
import subprocess
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from psycopg.conninfo import conninfo_to_dict

from cache_pipeline_tests.programs import find_program

PGBOUNCER = "pgbouncer"
#: Fewer than the connections that the clients open, so that each client meets the sessions that others have used.
_FEW_SERVER_CONNECTIONS = {"default_pool_size": 3}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class PgBouncer:
    """A pooler that can be killed and started again on the same port.

    Args:
        folder: Folder to create for its configuration and log.
        settings: Settings of its section ``[pgbouncer]``, beside those that every test needs.
    """

    def __init__(self, folder: Path, settings: Mapping[str, object]) -> None:
        self._program = find_program(PGBOUNCER)
        self._port = _free_port()
        folder.mkdir(mode=0o755)
        self._config, self._log = folder / "pgbouncer.ini", folder / "log"
        self._settings = {
            "listen_addr": "127.0.0.1",
            "listen_port": self._port,
            "unix_socket_dir": "",
            "auth_type": "any",
            "pool_mode": "transaction",
            "max_client_conn": 200,
            **settings,
        }
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, postgres_url: str) -> str:
        """Return the URL of the database of a URL, behind the pooler."""
        user = conninfo_to_dict(postgres_url)["user"]
        return urlunsplit(urlsplit(postgres_url)._replace(netloc=f"{user}:any@127.0.0.1:{self._port}"))

    def start(self, postgres_url: str) -> None:
        """Start it in front of the server of a URL, which need not run, and wait until it accepts connections."""
        server = conninfo_to_dict(postgres_url)
        # A password that is empty is a syntax error.
        database = {name: server[name] for name in ("host", "port", "user", "password") if server.get(name)}
        self._config.write_text(
            f"[databases]\n* = {' '.join(f'{name}={value}' for name, value in database.items())}\n[pgbouncer]\n"
            + "".join(f"{name} = {value}\n" for name, value in self._settings.items())
        )
        # It refuses to run as root, and reads its configuration before it changes the user.
        user = ["-u", "nobody"] if os.getuid() == 0 else []
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                [self._program, *user, str(self._config)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # Ctrl-C must not end it before its clients.
                start_new_session=True,
            )
        deadline = time.monotonic() + 30
        while True:
            assert self._process.poll() is None, self._log.read_text()
            try:
                socket.create_connection(("127.0.0.1", self._port), timeout=1).close()
            except OSError:
                assert time.monotonic() < deadline, self._log.read_text()
                time.sleep(0.05)
            else:
                return

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        """Stop it, if it runs."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()


@contextmanager
def pgbouncer(folder: Path, postgres_url: str) -> Generator[str]:
    """Run a PgBouncer for the database of a URL; yield the URL of the same database behind it."""
    pooler = PgBouncer(folder, _FEW_SERVER_CONNECTIONS)
    try:
        pooler.start(postgres_url)
        yield pooler.url(postgres_url)
    finally:
        pooler.stop()
