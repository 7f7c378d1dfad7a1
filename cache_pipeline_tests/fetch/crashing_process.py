"""Processes that run the service and die, or freeze, at a named step: `python -m cache_pipeline_tests.fetch.crashing_process`.

It reads orders, one JSON object a line, forks a process for each run, and reports how each of them ended.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from functools import wraps
from typing import Any

from pydantic import SecretStr

from cache_pipeline.bootstrap.services import open_service
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.report import Report
from cache_pipeline.redis_connection import open_redis
from cache_pipeline.settings import ClientCredentials, Settings, VendorAccount
from cache_pipeline.storage.postgres.history import PostgresHistory
from cache_pipeline.storage.postgres.ledger import PostgresLedger, open_ledger
from cache_pipeline.storage.redis.single_flight import RedisSingleFlight
from cache_pipeline.upstream.polling import GuideSchedule, JobPoller
from cache_pipeline.vendors.reportdata import adapter as reportdata
from cache_pipeline.vendors.reportdata.adapter import ReportDataAdapter

#: Steps of a query, in order. A process that is killed at a step has just done what its name says.
STEPS = ("intended", "sent", "recorded", "polled", "paged", "verified", "storing", "stored")


def account(url: str) -> VendorAccount:
    """Return an account of the simulated vendor."""
    return VendorAccount(
        base_url=url,  # pyright: ignore[reportArgumentType]
        login_url=f"{url}/oauth/token",  # pyright: ignore[reportArgumentType]
        clients=(ClientCredentials(client_id="demo-client", client_secret=SecretStr("demo-secret")),),
        rate_limit=10_000,
        window_seconds=0.5,
    )


def _after(owner: type, name: str, end: Callable[[], None], *, before: bool = False) -> None:
    """Call `end` after a method is called, or also before it."""
    original = getattr(owner, name)
    if asyncio.iscoroutinefunction(original):

        @wraps(original)
        async def ending(*args: Any, **more: Any) -> Any:
            if before:
                end()
            result = await original(*args, **more)
            end()
            return result
    else:

        @wraps(original)
        def ending(*args: Any, **more: Any) -> Any:
            if before:
                end()
            result = original(*args, **more)
            end()
            return result

    setattr(owner, name, ending)


def _after_a_page(end: Callable[[], None]) -> None:
    original = ReportDataAdapter.pages

    async def pages(self: ReportDataAdapter, *args: Any) -> Any:
        async for page in original(self, *args):
            yield page
            end()

    ReportDataAdapter.pages = pages


def _before_the_commit(end: Callable[[], None]) -> None:
    original, replaced = PostgresHistory._transaction, PostgresHistory.replace
    storing = False

    @contextmanager
    def transaction(self: PostgresHistory) -> Any:
        with original(self) as cursor:
            yield cursor
            if storing:
                end()

    def replacing(self: PostgresHistory, *args: Any) -> None:
        nonlocal storing
        storing = True
        replaced(self, *args)

    PostgresHistory._transaction, PostgresHistory.replace = transaction, replacing


def _arm(step: str, number: int, with_signal: int) -> None:
    remaining = number

    def end() -> None:
        nonlocal remaining
        remaining -= 1
        if remaining == 0:
            os.kill(os.getpid(), with_signal)

    {
        "intended": lambda: _after(ReportDataAdapter, "submit", end, before=True),
        "sent": lambda: _after(ReportDataAdapter, "submit", end),
        "recorded": lambda: _after(PostgresLedger, "mark_submitted", end),
        "polled": lambda: _after(ReportDataAdapter, "status", end),
        "paged": lambda: _after_a_page(end),
        "verified": lambda: _after(PostgresHistory, "replace", end, before=True),
        "storing": lambda: _before_the_commit(end),
        "stored": lambda: _after(PostgresHistory, "replace", end),
    }[step]()


async def _answer(order: dict[str, Any], run: dict[str, Any]) -> None:
    settings = Settings(
        postgres_url=SecretStr(order["postgres"]),
        redis_url=SecretStr(order["redis"]),
        accounts={"reportdata": {"main": account(order["vendor"])}},
    )
    report, now, lease = (
        Report.model_validate_json(order["report"]),
        datetime.fromisoformat(order["now"]),
        order["lease"],
    )
    async with (
        open_service(settings) as service,
        open_redis(order["redis"]) as redis,
        RedisSingleFlight(redis, lease_seconds=lease) as single_flight,
    ):
        with open_ledger(order["postgres"], timedelta(seconds=lease)) as ledger:
            crashing = replace(
                service,
                clock=lambda: now,
                single_flight=single_flight,
                ledger=ledger,
                job_pollers={"reportdata/main": JobPoller(guide=GuideSchedule(0.05, 0.2))},
            )
            await crashing.answer(report, Interval.parse(run["interval"]))


def _child(order: dict[str, Any], run: dict[str, Any]) -> None:
    reportdata._PAGE_SIZE = 50
    if "step" in run:
        _arm(run["step"], run.get("number", 1), run.get("signal", signal.SIGKILL))
    asyncio.run(_answer(order, run))


def _say(pid: int, event: str, code: int) -> None:
    sys.stdout.write(json.dumps({"pid": pid, "event": event, "code": code}) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Run orders until standard input ends."""
    for line in sys.stdin:
        order = json.loads(line)
        running: set[int] = set()
        for run in order["runs"]:
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    _child(order, run)
                    code = 0
                finally:
                    os._exit(code)
            running.add(pid)
        while running:
            pid, status = os.waitpid(-1, os.WUNTRACED)
            if os.WIFSTOPPED(status):
                _say(pid, "stopped", os.WSTOPSIG(status))
                continue
            running.discard(pid)
            if os.WIFSIGNALED(status):
                _say(pid, "killed", os.WTERMSIG(status))
            else:
                _say(pid, "exited", os.WEXITSTATUS(status))


if __name__ == "__main__":
    main()
