"""PostgreSQL and Redis of one run, each a pair of servers behind proxies that can fail over."""

import asyncio
import shutil
from collections.abc import AsyncGenerator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

from redis import Redis

from cache_pipeline_tests.chaos.proxy import TcpProxy
from cache_pipeline_tests.storage.postgres.postgres_servers import Server as PostgresServer
from cache_pipeline_tests.storage.postgres.postgres_servers import replicated_postgres, url_of
from cache_pipeline_tests.storage.redis.valkey_servers import PASSWORD, SERVICE, Server, free_port, wait_until

#: Longer than most kills, so that a killed server is sometimes replaced and sometimes back in time, empty.
_DOWN_AFTER_MILLISECONDS = 2000
_FAILOVER_TIMEOUT_MILLISECONDS = 3000


class PostgresPair:
    """A PostgreSQL primary and its standby, which has every acknowledged transaction.

    Attributes:
        proxies: The way to each server, and the address that is moved to the primary.
    """

    def __init__(self, stack: ExitStack) -> None:
        self._servers = stack.enter_context(replicated_postgres())
        self._proxy_of = {
            server.port: TcpProxy(f"postgres-{name}", server.port)
            for name, server in (("1", self._servers.primary), ("2", self._servers.standby))
        }
        self._address = TcpProxy("postgres", self._servers.primary.port)
        self.proxies = [*self._proxy_of.values(), self._address]
        self.url = self._servers.url

    @property
    def proxied_url(self) -> str:
        """The URL that names both servers through their proxies."""
        return url_of(*(proxy.port for proxy in self._proxy_of.values()))

    @property
    def address_url(self) -> str:
        """The URL of the address that is moved, for what cannot try several hosts."""
        return url_of(self._address.port)

    async def restart(self, seconds: float) -> None:
        """Kill the primary, and start it again."""
        await self._kill_for(self._servers.primary, seconds)

    async def restart_standby(self, seconds: float) -> None:
        """Kill the standby, and start it again. Commits wait for it meanwhile."""
        await self._kill_for(self._servers.standby, seconds)

    async def fail_over(self, seconds: float) -> None:
        """Kill the primary and promote its standby. The killed server comes back as the standby."""
        former = self._servers.primary
        self._proxy_of[former.port].refuse()
        await asyncio.to_thread(self._servers.fail_over)
        self._address.lead_to(self._servers.primary.port)
        await asyncio.sleep(seconds)
        await asyncio.to_thread(self._servers.bring_back)
        await self._proxy_of[former.port].start()

    def keep_logs(self, folder: Path) -> None:
        """Copy the servers' logs, whose own folder is removed at the end."""
        for log in self._servers.primary.data.parent.glob("*.log"):
            shutil.copy(log, folder / f"postgres-{log.name}")

    async def _kill_for(self, server: PostgresServer, seconds: float) -> None:
        proxy = self._proxy_of[server.port]
        proxy.refuse()
        await asyncio.to_thread(server.crash)
        await asyncio.sleep(seconds)
        await asyncio.to_thread(server.start)
        await proxy.start()


class RedisPair:
    """A Redis primary and its replica, which keep nothing on disk, and a Sentinel that promotes the replica.

    The Sentinel and the servers reach each other through the same proxies as everyone else, so a primary that is cut off is cut
    off from all of them.

    Attributes:
        proxies: The way to each server.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        login = [f"requirepass {PASSWORD}", f"masterauth {PASSWORD}", "repl-diskless-sync-delay 0"]
        ports = [free_port(), free_port()]
        self.proxies = [TcpProxy(f"redis-{number}", port) for number, port in enumerate(ports, 1)]
        self._folder, self._login, self._ports = folder, login, ports
        self._servers: list[Server] = []
        self._sentinel: Server | None = None

    @property
    def url(self) -> str:
        """The URL that names the Sentinel."""
        assert self._sentinel is not None
        return f"redis+sentinel://:{PASSWORD}@127.0.0.1:{self._sentinel.port}/{SERVICE}"

    def start(self) -> None:
        """Start the servers, and then the Sentinel. The proxies listen already."""
        for number, (port, proxy) in enumerate(zip(self._ports, self.proxies, strict=True), 1):
            lines = [*self._login, "replica-announce-ip 127.0.0.1", f"replica-announce-port {proxy.port}"]
            server = Server(self._folder / str(number), lines, port=port)
            server.start()
            self._servers.append(server)
        self._follow(self._servers[1], self._servers[0])
        watch = [
            f"sentinel monitor {SERVICE} 127.0.0.1 {self.proxies[0].port} 1",
            f"sentinel auth-pass {SERVICE} {PASSWORD}",
            f"sentinel down-after-milliseconds {SERVICE} {_DOWN_AFTER_MILLISECONDS}",
            f"sentinel failover-timeout {SERVICE} {_FAILOVER_TIMEOUT_MILLISECONDS}",
        ]
        self._sentinel = Server(self._folder / "sentinel", watch, ("--sentinel",))
        self._sentinel.start()
        with self._sentinel.client() as client:
            wait_until(lambda: client.sentinel_master(SERVICE)["num-slaves"] == 1)

    def stop(self) -> None:
        """Stop all of them."""
        for each in (*self._servers, *([self._sentinel] if self._sentinel else [])):
            each.stop()

    def primary(self) -> Server:
        """Return the server that the Sentinel names."""
        assert self._sentinel is not None
        with self._sentinel.client() as client:
            _, port = client.sentinel_get_master_addr_by_name(SERVICE)
        return next(
            server for server, proxy in zip(self._servers, self.proxies, strict=True) if proxy.port == int(port)
        )

    async def restart(self, seconds: float) -> None:
        """Kill the primary, and start it again, empty. The Sentinel may have replaced it meanwhile."""
        killed = await asyncio.to_thread(self.primary)
        killed.kill()
        await asyncio.sleep(seconds)
        await asyncio.to_thread(self._bring_back, killed)

    async def promote(self, seconds: float) -> None:
        """Kill the primary, and start it again as a replica once the Sentinel has promoted the other server."""
        killed = await asyncio.to_thread(self.primary)
        killed.kill()
        await asyncio.to_thread(wait_until, lambda: self.primary() is not killed)
        await asyncio.sleep(seconds)
        await asyncio.to_thread(self._bring_back, killed)

    async def switch_over(self) -> None:
        """Let the Sentinel promote the replica of a primary that lives, and that refuses writes until it is a replica too."""
        await asyncio.to_thread(self._switch_over)

    @asynccontextmanager
    async def state(self, name: str) -> AsyncGenerator[None]:
        """Bring the primary into a state in which it still answers while the block lasts: see `REDIS_STATES`."""
        server = await asyncio.to_thread(self.primary)
        await asyncio.to_thread(_enter_state, server, name)
        try:
            yield
        finally:
            await asyncio.to_thread(_leave_state, server, name)

    def _switch_over(self) -> None:
        former = self.primary()
        (other,) = (each for each in self._servers if each is not former)
        with former.client() as client, other.client() as promoted:
            # More replicas than there are: nothing is written that the promoted server might miss.
            client.config_set("min-replicas-to-write", 2)
            try:
                wait_until(lambda: _offset(client) == _offset(promoted))
                assert self._sentinel is not None
                with self._sentinel.client() as sentinel:
                    wait_until(lambda: bool(sentinel.sentinel_failover(SERVICE)))
                wait_until(lambda: promoted.role()[0] == b"master" and self.primary() is other)
                self._follow(former, other)
            finally:
                client.config_set("min-replicas-to-write", 0)

    def _bring_back(self, server: Server) -> None:
        (server.folder / "dump.rdb").unlink(missing_ok=True)
        server.start()

        def is_paired() -> bool:
            # The Sentinel may still be replacing it.
            primary = self.primary()
            if server is not primary:
                self._follow(server, primary)
            (replica,) = (each for each in self._servers if each is not primary)
            with replica.client() as client:
                return client.info("replication").get("master_link_status") == "up"

        wait_until(is_paired)

    def _follow(self, replica: Server, primary: Server) -> None:
        with replica.client() as client:
            client.replicaof("127.0.0.1", str(self.proxies[self._servers.index(primary)].port))
            wait_until(lambda: client.info("replication").get("master_link_status") == "up")


def _offset(client: Redis) -> int:
    found = client.info("replication")
    return int(found["slave_repl_offset"] if found["role"] == "slave" else found["master_repl_offset"])


def _enter_state(server: Server, name: str) -> None:
    with server.client() as client:
        if name == "read_only":
            client.replicaof("127.0.0.1", "1")
        elif name == "full":
            client.config_set("maxmemory", "1mb")
        elif name == "unsaved":
            # A folder stands where the file of data would be written. A replica writes that file while it is filled.
            (server.folder / "dump.rdb").unlink(missing_ok=True)
            (server.folder / "dump.rdb" / "occupied").mkdir(parents=True)
            client.config_set("save", "3600 1")
            client.bgsave()
            wait_until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err")
        elif name == "emptied":
            client.flushall()
        else:
            raise ValueError(f"unknown state {name!r}")


def _leave_state(server: Server, name: str) -> None:
    with server.client() as client:
        if name == "read_only":
            client.replicaof("NO", "ONE")
        elif name == "full":
            client.config_set("maxmemory", "0")
        elif name == "unsaved":
            client.config_set("save", "")
            shutil.rmtree(server.folder / "dump.rdb")
