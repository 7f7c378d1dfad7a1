"""Checks PostgreSQL and Redis: reachable, recent enough, migrated, encrypted, keeping their data, and with the right time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import psycopg
from redis.asyncio import Redis
from redis.exceptions import OutOfMemoryError, ReadOnlyError, ResponseError

from cache_pipeline.check_result import CheckResult, CheckStatus
from cache_pipeline.errors import DeclarationConflict, UnknownSchemaVersion
from cache_pipeline.redis_connection import (
    check_writable,
    is_refused_write,
    open_redis,
    server_hosts,
    server_information,
    server_time,
)
from cache_pipeline.settings import is_loopback

#: The oldest version that the PostgreSQL project supports; docs/account.md names it too.
MIN_POSTGRES_VERSION = 15
_REPLICA = "PostgreSQL's read replica"
_MAX_REPLICA_SECONDS = 60
_MIN_REDIS_VERSION = (6, 2)
#: Names the server of a cluster whose clock is compared; nothing is stored there.
_CLOCK_KEY = "cache_pipeline:health"
#: Figures are dated by this machine's clock and leases by the servers' clocks, so the clocks must agree within this.
_MAX_CLOCK_SKEW = timedelta(seconds=5)


def compare_clocks(subject: str, here: datetime, there: datetime) -> CheckResult:
    """Check that a server's clock agrees with this machine's."""
    skew = abs(there - here)
    if skew <= _MAX_CLOCK_SKEW:
        return CheckResult(subject, CheckStatus.ok, f"within {max(skew.total_seconds(), 0.001):.3f} s of this machine")
    return CheckResult(
        subject,
        CheckStatus.warning,
        f"{skew.total_seconds():.0f} s {'ahead of' if there > here else 'behind'} this machine",
        "synchronise both machines' clocks with the same time service (NTP)",
    )


async def check_postgres(
    url: str, pending: Callable[[], list[str]], reports: int, clock: Callable[[], datetime]
) -> list[CheckResult]:
    """Check the version, encryption, clock and migrations of PostgreSQL.

    Args:
        url: The server.
        pending: Returns the changes that a migration would make.
        reports: The number of declared reports.
        clock: The current time in UTC.

    Raises:
        psycopg.Error: PostgreSQL cannot be reached or refuses the login.
    """
    async with await psycopg.AsyncConnection.connect(url, connect_timeout=5) as connection:
        before = clock()
        cursor = await connection.execute(
            "SELECT current_setting('server_version_num')::int, clock_timestamp(), pg_is_in_recovery()"
        )
        row = await cursor.fetchone()
        here = before + (clock() - before) / 2
        host, encrypted = connection.info.host, connection.pgconn.ssl_in_use
        verified = encrypted and connection.info.get_parameters().get("sslmode") == "verify-full"
    version, there, is_standby = row or (0, here, False)
    major = version // 10_000
    if major < MIN_POSTGRES_VERSION:
        return [
            CheckResult(
                "PostgreSQL",
                CheckStatus.failed,
                f"version {major} is too old",
                f"use PostgreSQL {MIN_POSTGRES_VERSION} or newer",
            )
        ]
    if is_standby:
        return [
            CheckResult(
                "PostgreSQL",
                CheckStatus.failed,
                "answers but accepts no writes: it is a standby",
                "name every host in CACHE_PIPELINE_POSTGRES_URL, with target_session_attrs=read-write",
            )
        ]
    return [
        CheckResult("PostgreSQL", CheckStatus.ok, f"version {major}"),
        *_check_encryption("PostgreSQL", host, verified=verified, remedy="add sslmode=verify-full to its URL"),
        compare_clocks("PostgreSQL's clock", here, there),
        await asyncio.to_thread(_check_tables, pending, reports),
    ]


def _check_tables(find_pending: Callable[[], list[str]], reports: int) -> CheckResult:
    try:
        pending = find_pending()
    except (DeclarationConflict, UnknownSchemaVersion) as error:
        return CheckResult("tables", CheckStatus.failed, error.message, error.remedy)
    if not pending:
        return CheckResult("tables", CheckStatus.ok, f"up to date for {reports} reports")
    more = f", and {len(pending) - 1} more" if len(pending) > 1 else ""
    return CheckResult("tables", CheckStatus.failed, f"{pending[0]}{more}", "run `cache-pipeline migrate`")


async def check_replica(url: str) -> list[CheckResult]:
    """Check that the read replica of PostgreSQL is one, and how late it is.

    Raises:
        psycopg.Error: It cannot be reached or refuses the login.
    """
    async with await psycopg.AsyncConnection.connect(url, connect_timeout=5) as connection:
        cursor = await connection.execute(
            "SELECT pg_is_in_recovery(), CASE WHEN pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() THEN 0"
            " ELSE extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())::float8 END"
        )
        is_standby, seconds = await cursor.fetchone() or (False, None)
    if not is_standby:
        detail = "is not a standby, so rows are read from the primary"
        return [
            CheckResult(_REPLICA, CheckStatus.warning, detail, "let CACHE_PIPELINE_POSTGRES_READ_URL name a standby")
        ]
    if seconds is None or seconds > _MAX_REPLICA_SECONDS:
        late = "of unknown lag" if seconds is None else f"{seconds:.0f} s late"
        detail = f"is {late}, so rows are read from the primary"
        return [CheckResult(_REPLICA, CheckStatus.warning, detail, "see pg_stat_replication on the primary")]
    return [CheckResult(_REPLICA, CheckStatus.ok, f"follows its primary, {seconds:.1f} s late")]


async def check_redis(url: str, clock: Callable[[], datetime]) -> list[CheckResult]:
    """Check the version, encryption, clock and eviction policy of Redis, which holds quota, locks and the hot tier.

    Raises:
        redis.exceptions.RedisError: Redis cannot be reached or refuses the login.
    """
    async with open_redis(url) as redis:
        before = clock()
        seconds = await server_time(redis, _CLOCK_KEY)
        here = before + (clock() - before) / 2
        servers = await server_information(redis)
        writes = await _check_writes(redis)
    parts = urlsplit(url)
    verified = parts.scheme.startswith("rediss") and "ssl_cert_reqs=none" not in parts.query
    oldest = min(servers, key=_compatible_version)
    name = str(oldest.get("server_name", "redis")).capitalize()
    version = str(oldest.get(f"{name.lower()}_version", oldest["redis_version"]))
    if _compatible_version(oldest) < _MIN_REDIS_VERSION:
        return [
            CheckResult(
                "Redis", CheckStatus.failed, f"{name} {version} is too old", "use Redis 6.2 or newer, or Valkey"
            ),
        ]
    described = f"{name} {version}" if len(servers) == 1 else f"{name} {version}, a cluster of {len(servers)} primaries"
    evictions = [
        _check_eviction(int(each.get("maxmemory", 0)), str(each.get("maxmemory_policy", "noeviction")))
        for each in servers
    ]
    return [
        writes or CheckResult("Redis", CheckStatus.ok, f"{described}, accepts writes"),
        *(
            result
            for host in server_hosts(url)[:1]
            for result in _check_encryption("Redis", host, verified=verified, remedy="use a rediss:// URL")
        ),
        compare_clocks("Redis's clock", here, datetime.fromtimestamp(seconds, UTC)),
        next((each for each in evictions if each.status is not CheckStatus.ok), evictions[0]),
    ]


def _compatible_version(information: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(int(part) for part in str(information["redis_version"]).split(".")[:2])


async def _check_writes(redis: Redis) -> CheckResult | None:
    """Return why Redis accepts no writes, or None if it does."""
    try:
        await check_writable(redis)
    except ReadOnlyError:
        detail, remedy = "it is a read-only replica", "let CACHE_PIPELINE_REDIS_URL name the primary, or the Sentinels"
    except OutOfMemoryError:
        detail, remedy = "its memory is full", "raise maxmemory, or find what else uses it"
    except ResponseError as error:
        if not is_refused_write(error):
            raise
        if str(error).startswith("NOREPLICAS"):
            detail = "it has fewer replicas than min-replicas-to-write, or they are late"
            remedy = "start its replicas; if it was replaced by another primary, let CACHE_PIPELINE_REDIS_URL name the Sentinels"
        else:
            detail, remedy = "it cannot save its data", "free disk space, or see its log"
    else:
        return None
    return CheckResult("Redis", CheckStatus.failed, f"answers but accepts no writes: {detail}", remedy)


def _check_encryption(server: str, host: str, *, verified: bool, remedy: str) -> list[CheckResult]:
    """Warn if a connection to another machine could be read or redirected by others."""
    if verified or not host or host.startswith("/") or is_loopback(host):
        return []
    detail = f"the connection to {host} does not use TLS with a verified certificate"
    return [CheckResult(f"{server}'s connection", CheckStatus.warning, detail, remedy)]


def _check_eviction(limit: int, policy: str) -> CheckResult:
    if limit and policy != "noeviction":
        return CheckResult(
            "Redis's memory",
            CheckStatus.warning,
            f"limited to {limit // 2**20} MiB with policy {policy}: the quota's record of sent requests may be evicted",
            "set maxmemory-policy noeviction, or use a separate Redis for the quota",
        )
    return CheckResult(
        "Redis's memory", CheckStatus.ok, f"limited to {limit // 2**20} MiB" if limit else "without a limit"
    )
