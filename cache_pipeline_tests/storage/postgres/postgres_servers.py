"""A PostgreSQL primary with a streaming standby, for one test or one chaos run."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from cache_pipeline.embedded.binaries import find_postgres_wheel

_DATABASE = "postgres"


def _unprivileged() -> dict[str, Any]:
    """Return the arguments of Popen that make root start PostgreSQL as another user, because it refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class Server:
    """One server of the pair."""

    data: Path
    port: int
    _process: "subprocess.Popen[bytes] | None" = field(default=None, init=False)

    @property
    def url(self) -> str:
        """The URL of this server alone."""
        return f"postgresql://example@127.0.0.1:{self.port}/{_DATABASE}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        settings = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "hot_standby": "on",
            "max_connections": 200,
            "timezone": "UTC",
        }
        options = [f"-c{name}={value}" for name, value in settings.items()]
        program = str(find_postgres_wheel().program("postgres"))
        deadline = time.monotonic() + 60
        self._process = None
        while True:
            if self._process is None or self._process.poll() is not None:
                # It ends at once while processes of a killed server are still ending.
                with (self.data.parent / f"{self.data.name}.log").open("ab") as log:
                    self._process = subprocess.Popen(
                        [program, "-D", str(self.data), *options], stdout=log, stderr=log, **_unprivileged()
                    )
            try:
                psycopg.connect(self.url, connect_timeout=5).close()
            except psycopg.OperationalError:
                assert time.monotonic() < deadline, f"PostgreSQL does not start; see {log.name}"
                time.sleep(0.1)
            else:
                return

    def kill(self) -> None:
        """Kill the server and its sessions at once."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait()

    def crash(self) -> None:
        """Kill all its processes with SIGKILL, as when its machine stops."""
        if self._process is None:
            return
        for pid in [self._process.pid, *_children(self._process.pid)]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()

    def promote(self) -> None:
        """Make a standby the primary."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("SELECT pg_promote()")

    def follow(self, primary: "Server") -> None:
        """Replace all data by a copy of the primary's, start, and stream from it."""
        user = _unprivileged()
        shutil.rmtree(self.data, ignore_errors=True)
        self.data.mkdir(mode=0o700)
        if user:
            os.chown(self.data, user["user"], user["group"])
        program = str(find_postgres_wheel().program("postgres").with_name("pg_basebackup"))
        copy = [program, "-D", str(self.data), "-R", "--no-sync", "-c", "fast", "-d", primary.url]
        subprocess.run(copy, check=True, capture_output=True, **user)
        self.start()

    def wait_for_standby(self, *, is_synchronous: bool) -> None:
        """Let commits wait until a standby has them, or not; return when they do.

        Without it, a failover may lose the last transactions that were committed before it.
        """
        standbys = "*" if is_synchronous else ""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{standbys}'".encode())
            connection.execute("SELECT pg_reload_conf()")
            deadline = time.monotonic() + 60
            statement = "SELECT 1 FROM pg_stat_replication WHERE state = 'streaming' AND sync_state = 'sync'"
            while is_synchronous and connection.execute(statement).fetchone() is None:
                assert time.monotonic() < deadline, "the standby does not stream"
                time.sleep(0.1)

    def stop(self) -> None:
        """Stop it, if it runs."""
        if self._process is not None and self._process.poll() is None:
            self.kill()


def _children(parent: int) -> list[int]:
    found: list[int] = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError, IndexError):
            if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(entry.name))
    return found


@dataclass
class ReplicatedPostgres:
    """A primary and its standby."""

    primary: Server
    standby: Server

    @property
    def url(self) -> str:
        """The URL that names both, for writing."""
        return url_of(self.primary.port, self.standby.port)

    def fail_over(self) -> None:
        """Kill the primary, and promote the standby, which then serves alone."""
        self.primary.crash()
        self.primary, self.standby = self.standby, self.primary
        self.primary.wait_for_standby(is_synchronous=False)
        self.primary.promote()

    def bring_back(self) -> None:
        """Let the killed server, which may have transactions that no other has, begin again as the standby."""
        self.standby.follow(self.primary)
        self.primary.wait_for_standby(is_synchronous=True)


def url_of(*ports: int) -> str:
    """Return the URL that names the servers at some ports, for writing."""
    hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
    return f"postgresql://example@{hosts}/{_DATABASE}?target_session_attrs=read-write&connect_timeout=5"


@contextmanager
def replicated_postgres() -> Generator[ReplicatedPostgres]:
    """Run a primary and a standby that has every committed transaction."""
    folder = Path(tempfile.mkdtemp(prefix="replicated-"))
    folder.chmod(0o711)
    wheel, user = find_postgres_wheel(), _unprivileged()
    primary, standby = Server(folder / "primary", _free_port()), Server(folder / "standby", _free_port())
    try:
        primary.data.mkdir(mode=0o700)
        if user:
            os.chown(primary.data, user["user"], user["group"])
        initdb = [str(wheel.program("initdb")), "-D", str(primary.data), "-U", "example", "--auth=trust", "--no-sync"]
        subprocess.run([*initdb, "--locale=C", "--encoding=UTF8"], check=True, capture_output=True, **user)
        primary.start()
        standby.follow(primary)
        # A commit waits until the standby has it, so a failover loses nothing.
        primary.wait_for_standby(is_synchronous=True)
        yield ReplicatedPostgres(primary, standby)
    finally:
        for each in (primary, standby):
            each.stop()
        shutil.rmtree(folder)
