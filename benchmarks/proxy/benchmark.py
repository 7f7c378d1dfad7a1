"""`proxy`: the vendor's own SDK, straight to the simulated vendor and through us, for the same queries.

The least number of calls is one for each day of each declared report that the queries touch. The peer sends every query to the vendor.
Ten scripts then ask together for a minute, six times as often as the vendor allows: first only what is held, then also days that are
not, of a vendor that does enforce its limit. Last comes a simulated day of ten scripts (`simulated_day`).
"""

import json
import statistics
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import httpx
from pydantic import HttpUrl

from benchmarks.api import targets
from benchmarks.api.benchmark import create_key, deployment
from benchmarks.api.servers import run_in_process
from benchmarks.proxy.scripts import Answer, running_script
from benchmarks.proxy.simulated_day import measure_day
from benchmarks.quota.processes import simulator_process
from benchmarks.result import ProgressCallback, Result, Row, Target
from cache_pipeline.bootstrap.database import migrate_history
from cache_pipeline.bootstrap.reports import load_reports
from cache_pipeline.embedded import embedded_servers
from cache_pipeline.settings import Settings
from cache_pipeline.simulator import SimulatorSettings

_FIRST_DAY = datetime(2026, 1, 5, tzinfo=UTC)
_SCRIPTS, _TIMES_THE_LIMIT, _LIMIT = 10, 6, 300
#: Of so many queries of a script, one is for what is not held.
_EVERY = 9
_STRAIGHT = "straight to the vendor"
_REPORT = """\
name: {name}
description: Figures that the scripts ask for
platform: genesys
query_type: {family}
granularity: {granularity}
group_by: [{groups}]
metrics: [{metrics}]
partition: day
start: 2025-01-01
fetch: {{delivery: sync}}
freshness: {{ttl: PT15M}}
publish: {{tiers: [history, hot]}}
"""


@dataclass(frozen=True)
class _Declared:
    name: str
    family: str
    granularity: str
    dimension: str
    metrics: tuple[str, ...]

    def text(self) -> str:
        # The vendor splits conversations and flows by medium, unasked.
        groups = self.dimension if self.family == "users" else f"{self.dimension}, mediaType"
        return _REPORT.format(**{**vars(self), "groups": groups, "metrics": ", ".join(self.metrics)})


_DECLARED = (
    _Declared(
        *("by_queue", "conversations", "PT30M", "queueId"),
        ("nOffered", "nConnected", "tHandle", "tAnswered", "tAbandon", "oServiceLevel", "oServiceTarget"),
    ),
    _Declared("by_user", "conversations", "PT1H", "userId", ("tTalk", "tAcw", "tHeld")),
    _Declared("by_flow", "flows", "PT1H", "flowId", ("nFlow", "tFlow")),
    _Declared("by_state", "users", "PT1H", "userId", ("tSystemPresence", "tAgentRoutingStatus")),
)


@dataclass(frozen=True)
class _Query:
    report: str
    family: str
    body: dict[str, Any]
    days: frozenset[datetime]


def _queries(first_day: datetime) -> list[_Query]:
    """Return 96 queries of three days: all combinations of report, days, granularity, groups and metrics."""
    found: list[_Query] = []
    for report, (offset, length), granularity, is_grouped in product(
        _DECLARED, ((0, 1), (1, 1), (2, 1), (0, 3)), ("PT1H", "P1D", None), (True, False)
    ):
        start = first_day + timedelta(days=offset)
        days = frozenset(start + timedelta(days=number) for number in range(length))
        metrics = report.metrics if is_grouped else report.metrics[:2]
        body: dict[str, Any] = {
            "interval": f"{_iso(start)}/{_iso(start + timedelta(days=length))}",
            "metrics": list(metrics),
        }
        if granularity is not None:
            body["granularity"] = granularity
        if is_grouped:
            body["groupBy"] = [report.dimension]
        found.append(_Query(report.name, report.family, body, days))
    return found


def _iso(instant: datetime) -> str:
    return instant.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _least(queries: Iterable[_Query]) -> set[tuple[str, datetime]]:
    return {(query.report, day) for query in queries for day in query.days}


def measure(progress: ProgressCallback) -> Result:
    """Run the benchmark.

    Raises:
        BenchmarkError: A server did not start, or the SDK failed.
    """
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        (folder / "reports").mkdir()
        for report in _DECLARED:
            (folder / "reports" / f"{report.name}.yaml").write_text(report.text())
        progress("starting servers")
        stores = stack.enter_context(embedded_servers(folder / "servers"))
        vendor = stack.enter_context(
            simulator_process(SimulatorSettings(genesys_rate_limit=1_000_000, conversations_per_working_day=3000))
        )
        settings = deployment(stores.postgres_url, stores.redis_url, vendor, folder, "genesys")
        migrate_history(settings, load_reports(settings))
        prefix, key_id, secret = create_key(settings).split("_", 2)
        api = stack.enter_context(run_in_process(targets.api, settings))
        stack.enter_context(run_in_process(targets.worker, settings))
        straight = {"url": vendor, "id": "demo-client", "secret": "demo-secret"}
        ours = {"url": api.message, "id": f"{prefix}_{key_id}", "secret": secret}
        first, later = _queries(_FIRST_DAY), _queries(_FIRST_DAY + timedelta(days=1))
        rows: list[Row] = []
        progress("straight to the vendor")
        expected = [_run(straight, each, folder) for each in (first, later)]
        for what, queries, answers, least in (
            ("cold", first, expected[0], _least(first)),
            ("warm", first, expected[0], set[tuple[str, datetime]]()),
            ("overlapping", later, expected[1], _least(later) - _least(first)),
        ):
            progress(what)
            before = _calls(vendor)
            run = _run(ours, queries, folder)
            equal = sum(_by_group(mine) == _by_group(theirs) for mine, theirs in zip(run, answers, strict=True))
            rows += [
                Row(
                    f"{what}: answers equal to the vendor's",
                    equal,
                    "answers",
                    {},
                    len(queries),
                    Target("ratio", "=", 1),
                ),
                Row(
                    f"{what}: calls of the vendor",
                    _calls(vendor) - before,
                    "calls",
                    {_STRAIGHT: len(queries)},
                    len(least) or None,
                    Target("ratio", "<=", 1.05) if least else Target("ours", "=", 0),
                ),
                Row(
                    f"{what}: median time",
                    _median_milliseconds(run),
                    "ms",
                    {_STRAIGHT: _median_milliseconds(answers)},
                ),
            ]
        progress("ten scripts at once")
        rows += _measure_scripts("held figures", ours, [_held(first)] * _SCRIPTS, folder)
        progress("ten scripts at once, with figures that are not held")
        limited = stack.enter_context(
            simulator_process(SimulatorSettings(genesys_rate_limit=_LIMIT, conversations_per_working_day=3000))
        )
        settings = _with_limit(settings, limited)
        api = stack.enter_context(run_in_process(targets.api, settings))
        stack.enter_context(run_in_process(targets.worker, settings))
        mixed = [_with_days_not_held(_held(first), number) for number in range(_SCRIPTS)]
        rows += _measure_scripts("held and other figures", {**ours, "url": api.message}, mixed, folder)
        rejected = httpx.get(f"{limited}/simulator/counters").json()["summary"]["rejected_429"]
        rows.append(Row("the same: the vendor's own 429", rejected, "answers", target=Target("ours", "=", 0)))
        progress("a day of ten scripts")
        rows.append(measure_day(folder, _STRAIGHT))
        return Result("proxy", tuple(rows))


def _held(queries: Sequence[_Query]) -> list[_Query]:
    count = _LIMIT * _TIMES_THE_LIMIT // _SCRIPTS
    return [queries[number % len(queries)] for number in range(count)]


def _with_days_not_held(queries: Sequence[_Query], script: int) -> list[_Query]:
    """Return the queries of a script, of which every ninth is for a day of its own: 200 in all, which the limit allows."""
    found = list(queries)
    for at in range(_EVERY - 1, len(found), _EVERY):
        day = _FIRST_DAY - timedelta(days=1 + script + _SCRIPTS * (at // _EVERY))
        found[at] = next(each for each in _queries(day) if each.report == found[at].report)
    return found


def _with_limit(settings: Settings, vendor: str) -> Settings:
    """Return the settings for a vendor that allows as much as the real one."""
    account = settings.accounts["genesys"]["main"].model_copy(
        update={
            "base_url": HttpUrl(vendor),
            "login_url": HttpUrl(f"{vendor}/oauth/token"),
            "rate_limit": _LIMIT,
            "window_seconds": 60.0,
        }
    )
    return settings.model_copy(update={"accounts": {"genesys": {"main": account}}})


def _measure_scripts(what: str, ours: Mapping[str, str], asked: Sequence[Sequence[_Query]], folder: Path) -> list[Row]:
    pause = 60 / len(asked[0])
    with ThreadPoolExecutor(_SCRIPTS) as pool:
        runs = list(pool.map(partial(_run, ours, folder=folder, pause=pause), asked))
    refused = sum(answer.document is None for run in runs for answer in run)
    seconds = sorted(
        answer.seconds
        for queries, run in zip(asked, runs, strict=True)
        for query, answer in zip(queries, run, strict=True)
        if min(query.days) >= _FIRST_DAY
    )
    p95 = seconds[int(len(seconds) * 0.95)]
    return [
        Row(
            f"{len(asked)} scripts, {sum(map(len, asked))} queries of {what}: refused",
            refused,
            "answers",
            target=Target("ours", "=", 0),
        ),
        Row(f"the same: 95th percentile of {len(seconds)} held answers", p95, "s", target=Target("ours", "<=", 2)),
    ]


def _median_milliseconds(answers: Iterable[Answer]) -> float:
    return 1000 * statistics.median(answer.seconds for answer in answers)


def _calls(vendor: str) -> int:
    summary = httpx.get(f"{vendor}/simulator/counters").json()["summary"]
    return summary["sync_queries"] + summary["submits"]


def _by_group(answer: Answer) -> dict[str, Any] | None:
    """Return the buckets of an answer by group; None for a refusal. The vendor documents no order of groups and metrics."""
    if answer.document is None:
        return None
    return {
        json.dumps(result["group"], sort_keys=True): [
            {**bucket, "metrics": sorted(bucket["metrics"], key=lambda each: (each["metric"], each["qualifier"] or ""))}
            for bucket in result["data"]
        ]
        for result in answer.document["results"]
    }


def _run(host: Mapping[str, str], queries: Sequence[_Query], folder: Path, pause: float = 0) -> list[Answer]:
    """Ask as a script does, `pause` seconds from one query to the next if the answer does not take longer."""
    answers: list[Answer] = []
    with running_script(host, folder) as script:
        for query in queries:
            answers.append(script.call(f"post_analytics_{query.family}_aggregates_query", query.body))
            time.sleep(max(0.0, pause - answers[-1].seconds))
    return answers
