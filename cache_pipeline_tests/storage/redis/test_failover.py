"""After a failover the connections follow the primary, without a restart; a server without writes is not healthy."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import OutOfMemoryError, ReadOnlyError, RedisError, ResponseError

from cache_pipeline.bootstrap.clock import utc_now
from cache_pipeline.check_result import CheckStatus
from cache_pipeline.doctor.databases import check_redis
from cache_pipeline.errors import SettingsError
from cache_pipeline.redis_connection import check_writable, open_redis, server_hosts
from cache_pipeline_tests.storage.redis.valkey_servers import (
    PASSWORD,
    ReplicatedRedis,
    Server,
    replicated_redis,
    wait_until,
)

pytestmark = pytest.mark.system


@pytest.fixture
def replicated(tmp_path: Path) -> Iterator[ReplicatedRedis]:
    with replicated_redis(tmp_path) as servers:
        yield servers


@asynccontextmanager
async def moving_address(server: Server) -> AsyncGenerator[tuple[str, Callable[[Server], None]]]:
    """Yield an address that leads to a server, and a function that lets new connections lead to another."""
    target = server

    async def copy(source: asyncio.StreamReader, drain: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                drain.write(data)
                await drain.drain()
        finally:
            drain.close()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, requests = await asyncio.open_connection("127.0.0.1", target.port)
        await asyncio.gather(copy(reader, requests), copy(answers, writer), return_exceptions=True)

    def move(other: Server) -> None:
        nonlocal target
        target = other

    proxy = await asyncio.start_server(connect, "127.0.0.1", 0)
    async with proxy:
        yield f"redis://:{PASSWORD}@127.0.0.1:{proxy.sockets[0].getsockname()[1]}/0", move


async def wait_for_writes(client: Redis, seconds: float = 60.0) -> None:
    """Wait until a client writes again."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            await check_writable(client)
        except RedisError:
            assert time.monotonic() < deadline, "the client never found the new primary"
            await asyncio.sleep(0.1)
        else:
            return


async def test_client_follows_the_sentinels_after_the_primary_is_killed(replicated: ReplicatedRedis):
    async with open_redis(replicated.url) as client:
        await asyncio.gather(*(client.set(f"key{number}", number) for number in range(20)))
        replicated.primary.kill()
        await wait_for_writes(client)
        values = await asyncio.gather(*(client.get(f"key{number}") for number in range(20)))
        assert values == [str(number).encode() for number in range(20)]
    with replicated.replica.client() as new_primary:
        assert new_primary.role()[0] == b"master"


async def test_client_leaves_a_primary_that_was_demoted(replicated: ReplicatedRedis):
    """The former primary still runs and answers, but accepts no writes."""
    async with open_redis(replicated.url) as client:
        await asyncio.gather(*(client.set(f"key{number}", number) for number in range(20)))
        with replicated.sentinels[0].client() as sentinel, replicated.replica.client() as replica:
            sentinel.sentinel_failover("figures")
            wait_until(lambda: replica.role()[0] == b"master")
        with replicated.primary.client() as former:
            wait_until(lambda: former.role()[0] == b"slave")
        await wait_for_writes(client)
        # No connection of the pool is left on the former primary.
        await asyncio.gather(*(client.set(f"key{number}", "new") for number in range(20)))


async def test_pool_is_replaced_when_an_address_moves(replicated: ReplicatedRedis):
    """An address that names another server after the failover, as managed services do it."""
    async with moving_address(replicated.primary) as (url, move), open_redis(url) as client:
        await asyncio.gather(*(client.set(f"key{number}", number) for number in range(10)))
        with replicated.replica.client() as replica, replicated.primary.client() as primary:
            replica.replicaof("NO", "ONE")
            primary.replicaof("127.0.0.1", str(replicated.replica.port))
        move(replicated.replica)
        with pytest.raises(ReadOnlyError):
            await client.set("key", 1)
        await asyncio.gather(*(client.set(f"key{number}", "new") for number in range(10)))


async def test_read_only_replica_is_not_healthy(replicated: ReplicatedRedis):
    url = f"redis://:{PASSWORD}@127.0.0.1:{replicated.replica.port}/0"
    async with open_redis(url) as client:
        await client.ping()
        with pytest.raises(ReadOnlyError):
            await check_writable(client)
    found = {each.subject: each for each in await check_redis(url, utc_now)}
    assert found["Redis"].status is CheckStatus.failed
    assert "read-only replica" in found["Redis"].detail
    assert "primary" in found["Redis"].remedy


async def test_primary_without_its_replicas_is_not_healthy(replicated: ReplicatedRedis):
    """A former primary that was cut off from its replicas, which follow another one."""
    url = f"redis://:{PASSWORD}@127.0.0.1:{replicated.primary.port}/0"
    async with open_redis(url) as client:
        await client.config_set("min-replicas-to-write", "2")
        await asyncio.gather(*(client.get(f"key{number}") for number in range(5)))
        connected = (await client.info("stats"))["total_connections_received"]
        with pytest.raises(ResponseError, match="NOREPLICAS"):
            await check_writable(client)
        # All connections of the pool are replaced: the address may lead to another server by now.
        await asyncio.gather(*(client.get(f"key{number}") for number in range(5)))
        assert (await client.info("stats"))["total_connections_received"] >= connected + 5
        found = {each.subject: each for each in await check_redis(url, utc_now)}
        assert found["Redis"].status is CheckStatus.failed
        assert "min-replicas-to-write" in found["Redis"].detail
        assert "Sentinels" in found["Redis"].remedy


async def test_full_server_is_not_healthy(replicated: ReplicatedRedis):
    url = f"redis://:{PASSWORD}@127.0.0.1:{replicated.primary.port}/0"
    async with open_redis(url) as client:
        await client.config_set("maxmemory", "1mb")
        with pytest.raises(OutOfMemoryError):
            await check_writable(client)
        found = {each.subject: each for each in await check_redis(url, utc_now)}
        assert "memory is full" in found["Redis"].detail
        await client.config_set("maxmemory", "0")
        await check_writable(client)


async def test_doctor_reads_the_version_behind_sentinels(replicated: ReplicatedRedis):
    found = {each.subject: each for each in await check_redis(replicated.url, utc_now)}
    assert found["Redis"].status is CheckStatus.ok


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("redis://:example@cache.example.com:6379/0", ["cache.example.com"]),
        ("redis+sentinel://:example@a.example.com,b.example.com:26380/figures/2", ["a.example.com", "b.example.com"]),
        ("rediss+sentinel://[::1]:26379,[::2]/figures", ["::1", "::2"]),
        ("redis+cluster://:example@a.example.com,b.example.com:6380", ["a.example.com", "b.example.com"]),
        ("rediss+cluster://:example@[::1]:6379,[::2]?ssl_cert_reqs=none", ["::1", "::2"]),
        ("unix:///run/redis.sock", []),
    ],
)
def test_hosts_of_a_url(url: str, hosts: list[str]):
    assert server_hosts(url) == hosts
    open_redis(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://cache.example.com",
        "redis://:planted@cache.example.com:port/0",
        "redis+sentinel://:planted@a.example.com:26379",
        "redis+sentinel://:planted@a.example.com:26379/figures/first",
        "redis+sentinel://:planted@a.example.com:sentinel/figures",
        "redis+sentinel://:planted@/figures",
        "redis+cluster://:planted@a.example.com/2",
        "redis+cluster://:planted@a.example.com:cluster",
        "redis+cluster://:planted@",
        "redis://[:planted@a",
    ],
)
def test_unusable_url_is_one_clear_error_without_its_password(url: str):
    with pytest.raises(SettingsError, match="CACHE_PIPELINE_REDIS_URL: ") as raised:
        open_redis(url)
    assert "planted" not in str(raised.value)
