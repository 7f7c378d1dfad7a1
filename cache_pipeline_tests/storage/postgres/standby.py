"""A PostgreSQL primary with a streaming standby, for one test."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
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
        }
        options = [f"-c{name}={value}" for name, value in settings.items()]
        with (self.data.parent / f"{self.data.name}.log").open("ab") as log:
            program = str(find_postgres_wheel().program("postgres"))
            self._process = subprocess.Popen(
                [program, "-D", str(self.data), *options], stdout=log, stderr=log, **_unprivileged()
            )
        deadline = time.monotonic() + 60
        while True:
            try:
                psycopg.connect(self.url, connect_timeout=5).close()
            except psycopg.OperationalError:
                assert self._process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
            else:
                return

    def kill(self) -> None:
        """Kill the server and its sessions at once."""
        self._process.send_signal(3)
        self._process.wait()

    def promote(self) -> None:
        """Make a standby the primary."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("SELECT pg_promote()")

    def stop(self) -> None:
        """Stop it, if it runs."""
        if self._process.poll() is None:
            self.kill()


@dataclass
class ReplicatedPostgres:
    """A primary and its standby."""

    primary: Server
    standby: Server

    @property
    def url(self) -> str:
        """The URL that names both, for writing."""
        hosts = f"127.0.0.1:{self.primary.port},127.0.0.1:{self.standby.port}"
        return f"postgresql://example@{hosts}/{_DATABASE}?target_session_attrs=read-write&connect_timeout=5"


@contextmanager
def replicated_postgres() -> Generator[ReplicatedPostgres]:
    """Run a primary and a standby that has every committed transaction."""
    folder = Path(tempfile.mkdtemp(prefix="replicated-"))
    folder.chmod(0o711)
    wheel, user = find_postgres_wheel(), _unprivileged()
    primary, standby = Server(folder / "primary", _free_port()), Server(folder / "standby", _free_port())
    started: list[Server] = []
    try:
        for each in (primary, standby):
            each.data.mkdir(mode=0o700)
            if user:
                os.chown(each.data, user["user"], user["group"])
        initdb = [str(wheel.program("initdb")), "-D", str(primary.data), "-U", "example", "--auth=trust", "--no-sync"]
        subprocess.run([*initdb, "--locale=C", "--encoding=UTF8"], check=True, capture_output=True, **user)
        primary.start()
        started.append(primary)
        backup = [
            str(wheel.program("postgres").with_name("pg_basebackup")),
            "-D",
            str(standby.data),
            "-R",
            "--no-sync",
            "-c",
            "fast",
        ]
        subprocess.run([*backup, "-d", primary.url], check=True, capture_output=True, **user)
        standby.start()
        started.append(standby)
        # A commit waits until the standby has it, so a failover loses nothing.
        with psycopg.connect(primary.url, autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            connection.execute("SELECT pg_reload_conf()")
        yield ReplicatedPostgres(primary, standby)
    finally:
        for each in started:
            each.stop()
        shutil.rmtree(folder)
