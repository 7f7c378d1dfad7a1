"""Valkey servers for one test: a primary with a replica, and Sentinels that watch them."""

import signal
import socket
import subprocess
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import redis

from cache_pipeline.embedded.binaries import find_valkey_wheel

PASSWORD = "example-password"
SERVICE = "figures"


def free_port() -> int:
    """Return a port of the loopback interface that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait until a condition holds; errors of Redis count as False."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
        except redis.RedisError:
            pass
        assert time.monotonic() < deadline, "the servers did not get there"
        time.sleep(0.1)


@dataclass
class Server:
    """One Valkey server, or one Sentinel."""

    folder: Path
    lines: list[str]
    arguments: tuple[str, ...] = ()
    port: int = field(default_factory=free_port)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self.folder.mkdir(exist_ok=True)
        config = self.folder / "server.conf"
        if not config.exists():
            config.write_text(
                "\n".join([f"bind 127.0.0.1\nport {self.port}\ndir {self.folder}\nsave ''", *self.lines, ""])
            )
        wheel = find_valkey_wheel()
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(wheel.program("valkey-server")), str(config), *self.arguments], stdout=log, stderr=log
            )
        with self.client() as client:
            wait_until(client.ping)

    def client(self) -> redis.Redis:
        """Return a client of this server."""
        return redis.Redis(port=self.port, password=None if self.arguments else PASSWORD, socket_timeout=5)

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """Stop it, if it runs."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()


@dataclass
class ReplicatedRedis:
    """A primary, its replica and their Sentinels."""

    primary: Server
    replica: Server
    sentinels: list[Server]

    @property
    def url(self) -> str:
        """The URL that names the Sentinels."""
        hosts = ",".join(f"127.0.0.1:{each.port}" for each in self.sentinels)
        return f"redis+sentinel://:{PASSWORD}@{hosts}/{SERVICE}"


@contextmanager
def replicated_redis(folder: Path, sentinels: int = 3) -> Generator[ReplicatedRedis]:
    """Run a primary, its replica and some Sentinels that fail over after a second."""
    login = [f"requirepass {PASSWORD}", f"masterauth {PASSWORD}", "repl-diskless-sync-delay 0"]
    primary = Server(folder / "primary", login)
    replica = Server(folder / "replica", [*login, f"replicaof 127.0.0.1 {primary.port}"])
    watch = [
        f"sentinel monitor {SERVICE} 127.0.0.1 {primary.port} {sentinels // 2 + 1}",
        f"sentinel auth-pass {SERVICE} {PASSWORD}",
        f"sentinel down-after-milliseconds {SERVICE} 1000",
        f"sentinel failover-timeout {SERVICE} 5000",
    ]
    watching = [Server(folder / f"sentinel{number}", watch, ("--sentinel",)) for number in range(sentinels)]
    servers = [primary, replica, *watching]
    started: list[Server] = []
    try:
        for each in servers:
            each.start()
            started.append(each)
            if each is replica:
                with replica.client() as client:
                    wait_until(lambda: client.info("replication")["master_link_status"] == "up")
        for each in watching:
            with each.client() as client:
                wait_until(
                    lambda client=client: (
                        client.sentinel_master(SERVICE)["num-slaves"] == 1
                        and client.sentinel_master(SERVICE)["num-other-sentinels"] == sentinels - 1
                    )
                )
        yield ReplicatedRedis(primary, replica, watching)
    finally:
        for each in started:
            each.stop()
