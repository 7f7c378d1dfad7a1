"""Valkey servers for one test: a primary with a replica and Sentinels that watch them, or a cluster."""

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

    @property
    def is_running(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

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


@dataclass
class ClusteredRedis:
    """A Redis Cluster: each primary has one replica."""

    primaries: list[Server]
    replicas: list[Server]

    @property
    def url(self) -> str:
        """The URL that names two of its servers."""
        hosts = ",".join(f"127.0.0.1:{each.port}" for each in self.primaries[:2])
        return f"redis+cluster://:{PASSWORD}@{hosts}"

    def owner(self, slot: int) -> Server:
        """Return the primary that has a hash slot."""
        with self._any_client() as client:
            ranges = client.cluster("slots")
        (port,) = {primary[1] for first, last, primary, *_ in ranges if first <= slot <= last}
        return next(each for each in (*self.primaries, *self.replicas) if each.port == port)

    def replica_of(self, primary: Server) -> Server:
        """Return the replica of a primary."""
        for each in self.replicas:
            with each.client() as client:
                if client.role()[2] == primary.port:
                    return each
        raise AssertionError("the primary has no replica")

    def slots_in_use(self) -> list[int]:
        """Return the hash slots of all keys."""
        slots: set[int] = set()
        for each in self.primaries:
            with each.client() as client:
                slots |= {client.cluster("keyslot", key) for key in client.keys("*")}
        return sorted(slots)

    def move_slot(self, slot: int, target: Server) -> None:
        """Move a hash slot with its keys to another primary, as redis-cli does it."""
        source = self.owner(slot)
        if source is target:
            return
        with source.client() as old, target.client() as new:
            old_id, new_id = old.cluster("myid"), new.cluster("myid")
            new.cluster("setslot", slot, "importing", old_id)
            old.cluster("setslot", slot, "migrating", new_id)
            while keys := old.cluster("getkeysinslot", slot, 10):
                old.migrate("127.0.0.1", target.port, keys, 0, 5000, auth=PASSWORD)
            for each in (new, old):
                each.cluster("setslot", slot, "node", new_id)

    def wait_until_promoted(self, replica: Server) -> None:
        """Wait until a replica is a primary, and the cluster accepts commands again."""
        with replica.client() as client:
            wait_until(lambda: client.role()[0] == b"master")
            wait_until(lambda: client.cluster("info")["cluster_state"] == "ok")

    def _any_client(self) -> redis.Redis:
        return next(each for each in (*self.primaries, *self.replicas) if each.is_running).client()


@contextmanager
def clustered_redis(folder: Path) -> Generator[ClusteredRedis]:
    """Run three primaries with a replica each that takes over after about a second."""

    def server(name: str) -> Server:
        lines = [f"requirepass {PASSWORD}", f"masterauth {PASSWORD}", "repl-diskless-sync-delay 0"]
        lines += ["cluster-enabled yes", "cluster-node-timeout 1000", f"cluster-port {free_port()}"]
        return Server(folder / name, lines)

    primaries = [server(f"primary{number}") for number in range(3)]
    replicas = [server(f"replica{number}") for number in range(3)]
    started: list[Server] = []
    try:
        for each in (*primaries, *replicas):
            each.start()
            started.append(each)
        clients = [each.client() for each in started]
        for number, client in enumerate(clients):
            client.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
            bus = started[number].lines[-1].rpartition(" ")[2]
            clients[0].execute_command("CLUSTER MEET", "127.0.0.1", started[number].port, bus)
        for number, (first, last) in enumerate([(0, 5460), (5461, 10922), (10923, 16383)]):
            clients[number].execute_command("CLUSTER ADDSLOTSRANGE", first, last)
        for client in clients:
            wait_until(lambda client=client: client.cluster("info")["cluster_known_nodes"] == "6")
        for primary, replica in zip(clients[:3], clients[3:], strict=True):
            replica.execute_command("CLUSTER REPLICATE", primary.execute_command("CLUSTER MYID"))
        for replica in clients[3:]:
            wait_until(lambda replica=replica: replica.info("replication").get("master_link_status") == "up")
        for client in clients:
            wait_until(lambda client=client: client.cluster("info")["cluster_state"] == "ok")
            client.close()
        yield ClusteredRedis(primaries, replicas)
    finally:
        for each in started:
            each.stop()
