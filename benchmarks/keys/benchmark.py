"""`keys`: the number of distinct cache keys for 10,000 random spellings of 1,000 queries.

Ours parses each payload, finds the declared report, validates the query against it and hashes its canonical form: everything that
precedes a cache lookup. The guide's rule runs as printed on the same payloads, without validation. Microseconds are CPU time: the
median over several runs of a run's mean, with garbage collection enabled.
"""

import random
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.keys.guide import guide_key
from benchmarks.keys.spellings import random_queries, spell
from benchmarks.result import BenchmarkError, ProgressCallback, Result, Row, Target
from cache_pipeline.query.payload import find_report_for
from cache_pipeline.query.report import Report
from cache_pipeline.vendors.reportdata.adapter import ReportDataAdapter
from cache_pipeline.vendors.reportdata.query_payload import read_guide

_QUERIES, _SPELLINGS, _RUNS = 1_000, 10, 5
_PEER = "the guide's printed rule"
_REPORT = Report.model_validate(
    {
        "name": "queue_interval",
        "description": "Every queue and medium by quarter hour",
        "platform": "reportdata",
        "query_type": "queue-performance",
        "granularity": "PT15M",
        "time_zone": "Europe/Berlin",
        "group_by": ["queueId", "mediaType"],
        "metrics": ["offered", "answered", "abandoned", "handleMs"],
        "partition": "hour",
        "start": "2026-01-01",
    }
)
_REPORTS: Mapping[str, Report] = {_REPORT.name: _REPORT}
_COLUMNS = ReportDataAdapter.columns(_REPORT)
Key = Callable[[dict[str, Any]], str]


def measure(progress: ProgressCallback) -> Result:
    """Run the benchmark.

    Raises:
        BenchmarkError: Two different queries have the same key of ours.
    """
    rng = random.Random(20231001)  # noqa: S311 - reproducible, not secret
    progress("generating payloads")
    numbered_payloads = [
        (number, spell(query, rng))
        for number, query in enumerate(random_queries(_QUERIES, rng))
        for _ in range(_SPELLINGS)
    ]
    rng.shuffle(numbered_payloads)
    queries_by_key: defaultdict[str, set[int]] = defaultdict(set)
    for number, payload in numbered_payloads:
        queries_by_key[_our_key(payload)].add(number)
    if any(len(numbers) > 1 for numbers in queries_by_key.values()):
        raise BenchmarkError("two different queries have the same key")
    payloads = [payload for _, payload in numbered_payloads]
    progress("timing")
    ours, peers = _microseconds(_our_key, payloads), _microseconds(_guide_key, payloads)
    return Result(
        "keys",
        (
            Row(
                f"distinct keys for {len(payloads):,} spellings of {_QUERIES:,} queries",
                len(queries_by_key),
                "keys",
                {_PEER: len({_guide_key(payload) for payload in payloads})},
                limit=_QUERIES,
                target=Target("ours", "=", _QUERIES),
            ),
            Row("CPU time per key", ours, "µs", {_PEER: peers}, target=Target("ratio", "<=", 1.25)),
        ),
    )


def _our_key(payload: dict[str, Any]) -> str:
    return find_report_for(read_guide(payload), _REPORTS, lambda _: _COLUMNS).cache_key("default", "5s")


def _guide_key(payload: dict[str, Any]) -> str:
    return guide_key(payload, "15m")


def _microseconds(key: Key, payloads: list[dict[str, Any]]) -> float:
    means: list[float] = []
    for _ in range(_RUNS):
        started = time.process_time()
        for payload in payloads:
            key(payload)
        means.append((time.process_time() - started) / len(payloads) * 1e6)
    return statistics.median(means)
