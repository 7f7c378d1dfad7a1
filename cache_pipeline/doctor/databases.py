"""PostgreSQL and Redis: reachable, new enough, migrated, set up so that they lose nothing, and on the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import psycopg
from redis.asyncio import Redis

from cache_pipeline.bootstrap import report_columns
from cache_pipeline.doctor.check_result import CheckResult, CheckStatus
from cache_pipeline.query.report import Report
from cache_pipeline.settings import is_loopback
from cache_pipeline.storage.postgres.migrate import pending_changes

_OLDEST_POSTGRES = 14
_OLDEST_REDIS = (6, 2)
#: Figures are dated by this machine's clock and leases by the servers'; beyond this they tell different stories.
_TOLERATED_SKEW = timedelta(seconds=5)


def clock_finding(subject: str, here: datetime, there: datetime) -> CheckResult:
    """Whether a server's clock is this machine's."""
    skew = abs(there - here)
    if skew <= _TOLERATED_SKEW:
        return CheckResult(subject, CheckStatus.ok, f"within {max(skew.total_seconds(), 0.001):.3f} s of this machine")
    return CheckResult(
        subject,
        CheckStatus.warning,
        f"{skew.total_seconds():.0f} s {'ahead of' if there > here else 'behind'} this machine",
        "set both machines' clocks by the same time service (NTP)",
    )


async def check_postgres(url: str, reports: Mapping[str, Report], clock: Callable[[], datetime]) -> list[CheckResult]:
    """Version, clock and migrations of the history server.

    Raises:
        psycopg.Error: it cannot be reached or refuses.
    """
    async with await psycopg.AsyncConnection.connect(url, connect_timeout=5) as connection:
        before = clock()
        cursor = await connection.execute("SELECT current_setting('server_version_num')::int, clock_timestamp()")
        row = await cursor.fetchone()
        here = before + (clock() - before) / 2
        host, encrypted = connection.info.host, connection.pgconn.ssl_in_use
        verified = encrypted and connection.info.get_parameters().get("sslmode") == "verify-full"
    version, there = row or (0, here)
    major = version // 10_000
    if major < _OLDEST_POSTGRES:
        return [
            CheckResult(
                "PostgreSQL",
                CheckStatus.failed,
                f"version {major}, which has no multiranges",
                f"use PostgreSQL {_OLDEST_POSTGRES} or newer",
            )
        ]
    declared = [(report, report_columns(report)) for report in reports.values()]
    return [
        CheckResult("PostgreSQL", CheckStatus.ok, f"version {major}"),
        *_encryption("PostgreSQL", host, verified=verified, remedy="add sslmode=verify-full to its URL"),
        clock_finding("PostgreSQL's clock", here, there),
        _tables(await asyncio.to_thread(pending_changes, url, declared), len(reports)),
    ]


def _tables(lacking: Sequence[str], reports: int) -> CheckResult:
    if not lacking:
        return CheckResult("tables", CheckStatus.ok, f"up to date for {reports} reports")
    more = f", and {len(lacking) - 1} more" if len(lacking) > 1 else ""
    return CheckResult("tables", CheckStatus.failed, f"{lacking[0]}{more}", "run `cache-pipeline migrate`")


async def check_redis(url: str, clock: Callable[[], datetime]) -> list[CheckResult]:
    """Version, clock and eviction policy of the server that holds quota, locks and the hot tier.

    Raises:
        redis.exceptions.RedisError: it cannot be reached or refuses.
    """
    async with Redis.from_url(url, socket_connect_timeout=5, socket_timeout=5) as redis:
        before = clock()
        seconds, microseconds = await redis.time()
        here = before + (clock() - before) / 2
        server, memory = await redis.info("server"), await redis.info("memory")
    parts = urlsplit(url)
    verified = parts.scheme == "rediss" and "ssl_cert_reqs=none" not in parts.query
    name = str(server.get("server_name", "redis")).capitalize()
    version = str(server.get(f"{name.lower()}_version", server["redis_version"]))
    there = datetime.fromtimestamp(int(seconds) + int(microseconds) / 1e6, UTC)
    compatible = tuple(int(part) for part in str(server["redis_version"]).split(".")[:2])
    if compatible < _OLDEST_REDIS:
        return [
            CheckResult(
                "Redis", CheckStatus.failed, f"{name} {version} is too old", "use Redis 6.2 or newer, or Valkey"
            ),
        ]
    return [
        CheckResult("Redis", CheckStatus.ok, f"{name} {version}"),
        *_encryption("Redis", parts.hostname or "", verified=verified, remedy="use a rediss:// URL"),
        clock_finding("Redis's clock", here, there),
        _eviction(int(memory.get("maxmemory", 0)), str(memory.get("maxmemory_policy", "noeviction"))),
    ]


def _encryption(server: str, host: str, *, verified: bool, remedy: str) -> list[CheckResult]:
    """A word on a connection to another machine that others may read, or that may be to somebody else."""
    if verified or not host or host.startswith("/") or is_loopback(host):
        return []
    detail = f"the connection to {host} is not by TLS with its certificate verified"
    return [CheckResult(f"{server}'s connection", CheckStatus.warning, detail, remedy)]


def _eviction(limit: int, policy: str) -> CheckResult:
    if limit and policy != "noeviction":
        return CheckResult(
            "Redis's memory",
            CheckStatus.warning,
            f"limited to {limit // 2**20} MiB with policy {policy}: the record of what was sent may be evicted",
            "set maxmemory-policy noeviction, or give the quota a Redis of its own",
        )
    return CheckResult(
        "Redis's memory", CheckStatus.ok, f"limited to {limit // 2**20} MiB" if limit else "without a limit"
    )
