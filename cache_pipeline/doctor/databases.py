"""Checks PostgreSQL and Redis: reachable, recent enough, migrated, encrypted, keeping their data, and with the right time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import psycopg
from redis.asyncio import Redis
from redis.exceptions import OutOfMemoryError, ReadOnlyError, ResponseError

from cache_pipeline.check_result import CheckResult, CheckStatus
from cache_pipeline.errors import DeclarationConflict, UnknownSchemaVersion
from cache_pipeline.redis_connection import check_writable, is_refused_write, open_redis, server_hosts
from cache_pipeline.settings import is_loopback

_MIN_POSTGRES_VERSION = 14
_MIN_REDIS_VERSION = (6, 2)
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
    if major < _MIN_POSTGRES_VERSION:
        return [
            CheckResult(
                "PostgreSQL",
                CheckStatus.failed,
                f"version {major} is too old: it has no multiranges",
                f"use PostgreSQL {_MIN_POSTGRES_VERSION} or newer",
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


async def check_redis(url: str, clock: Callable[[], datetime]) -> list[CheckResult]:
    """Check the version, encryption, clock and eviction policy of Redis, which holds quota, locks and the hot tier.

    Raises:
        redis.exceptions.RedisError: Redis cannot be reached or refuses the login.
    """
    async with open_redis(url) as redis:
        before = clock()
        seconds, microseconds = await redis.time()
        here = before + (clock() - before) / 2
        server, memory = await redis.info("server"), await redis.info("memory")
        writes = await _check_writes(redis)
    parts = urlsplit(url)
    verified = parts.scheme.startswith("rediss") and "ssl_cert_reqs=none" not in parts.query
    name = str(server.get("server_name", "redis")).capitalize()
    version = str(server.get(f"{name.lower()}_version", server["redis_version"]))
    there = datetime.fromtimestamp(int(seconds) + int(microseconds) / 1e6, UTC)
    compatible = tuple(int(part) for part in str(server["redis_version"]).split(".")[:2])
    if compatible < _MIN_REDIS_VERSION:
        return [
            CheckResult(
                "Redis", CheckStatus.failed, f"{name} {version} is too old", "use Redis 6.2 or newer, or Valkey"
            ),
        ]
    return [
        writes or CheckResult("Redis", CheckStatus.ok, f"{name} {version}, accepts writes"),
        *(
            result
            for host in server_hosts(url)[:1]
            for result in _check_encryption("Redis", host, verified=verified, remedy="use a rediss:// URL")
        ),
        compare_clocks("Redis's clock", here, there),
        _check_eviction(int(memory.get("maxmemory", 0)), str(memory.get("maxmemory_policy", "noeviction"))),
    ]


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
