"""`keys`: 10,000 random spellings of 1,000 questions, and how many keys they come to.

Ours reads each payload, finds the declared report, holds the question against it and hashes its meaning: everything that
happens before a cache can be looked at. The guide's rule is run as printed, on the same payloads; it does not check them.
Microseconds are of processor time, the median over several runs of the mean of a run, with garbage collection as it is.
"""

import random
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.keys.guide import guide_key
from benchmarks.keys.spellings import meanings, spelled
from benchmarks.result import BenchmarkError, Result, Row, Target, Tell
from cache_pipeline.query.payload import find_report_for
from cache_pipeline.query.report import Report
from cache_pipeline.vendors.reportdata.adapter import ReportDataAdapter
from cache_pipeline.vendors.reportdata.query_payload import read_guide

_MEANINGS, _SPELLINGS, _RUNS = 1_000, 10, 5
_PEER = "the guide's printed rule"
_REPORT = Report.model_validate(
    {
        "name": "queue_interval",
        "description": "Every queue and medium by quarter of an hour",
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


def measure(tell: Tell) -> Result:
    """Run the benchmark.

    Raises:
        BenchmarkError: Two different questions have one key of ours.
    """
    chance = random.Random(20231001)  # noqa: S311 - the same spellings every time
    tell("writing questions down")
    asked = [
        (number, spelled(meaning, chance))
        for number, meaning in enumerate(meanings(_MEANINGS, chance))
        for _ in range(_SPELLINGS)
    ]
    chance.shuffle(asked)
    of_ours: defaultdict[str, set[int]] = defaultdict(set)
    for number, payload in asked:
        of_ours[_our_key(payload)].add(number)
    if any(len(numbers) > 1 for numbers in of_ours.values()):
        raise BenchmarkError("two questions that mean different things have one key")
    payloads = [payload for _, payload in asked]
    tell("timing")
    ours, peers = _microseconds(_our_key, payloads), _microseconds(_guide_key, payloads)
    return Result(
        "keys",
        (
            Row(
                f"keys of {len(payloads):,} spellings of {_MEANINGS:,} questions",
                len(of_ours),
                "keys",
                {_PEER: len({_guide_key(payload) for payload in payloads})},
                limit=_MEANINGS,
                target=Target("ours", "=", _MEANINGS),
            ),
            Row("a key", ours, "µs", {_PEER: peers}, target=Target("ours", "<=", 100)),
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
