"""`trace`: vendor queries for a day of fifty dashboards, on a simulated clock.

Ours runs the service's payload parsing, keys and planning, with coverage in memory instead of PostgreSQL. All caches start empty.
The guide's cache uses the printed key and a lifetime by length of the interval (G11); the URL cache has the same lifetime and uses
the payload as sent for its key. `limit` is the least possible, computed separately with knowledge of the whole day. Not measured:
truncated answers, which are verified by their parts and cost ours more; and the peers' long answers, which the vendor would silently
truncate.
"""

from datetime import timedelta

from benchmarks.result import BenchmarkError, ProgressCallback, Result, Row, Target
from benchmarks.trace.caches import LAG, REPORT, Cache, KeyedCache, Ours
from benchmarks.trace.least import Rules, least_queries
from benchmarks.trace.trace import requests
from cache_pipeline.storage.ttl import report_freshness

_SEED = 20260329
_GUIDE, _URL = "the guide: normalised key + TTL", "URL cache"


def measure(progress: ProgressCallback) -> Result:
    """Run the benchmark.

    Raises:
        BenchmarkError: Ours sent fewer queries than the least possible, so one of the two is wrong.
    """
    progress("generating the day")
    day = requests(_SEED)
    ours = Ours()
    peers: dict[str, Cache] = {_GUIDE: KeyedCache(by_url=False), _URL: KeyedCache(by_url=True)}
    for name, cache in {"ours": ours, **peers}.items():
        progress(f"{name}: {len(day):,} requests")
        for request in day:
            cache.answer(request)
    progress("computing the least possible")
    least = least_queries(day, Rules(REPORT.zone, LAG, report_freshness(REPORT)))
    if ours.cost.queries < least:
        raise BenchmarkError(f"ours sent {ours.cost.queries} queries, but {least} are the least possible")
    what = f"{len(day):,} requests of 50 dashboards"
    minute = timedelta(minutes=1)
    return Result(
        "trace",
        (
            Row(
                f"{what}: upstream queries",
                ours.cost.queries,
                "queries",
                {name: cache.cost.queries for name, cache in peers.items()},
                limit=least,
                target=Target("ratio", "<=", 1.05),
            ),
            Row(
                f"{what}: requests counted by the quota",
                ours.cost.requests,
                "requests",
                {name: cache.cost.requests for name, cache in peers.items()},
            ),
            Row(
                "upstream queries of the guide ÷ ours",
                peers[_GUIDE].cost.queries / ours.cost.queries,
                "times",
                target=Target("ours", ">=", 10),
            ),
            Row(
                "age of the oldest provisional figures shown",
                ours.cost.oldest / minute,
                "minutes",
                {name: cache.cost.oldest / minute for name, cache in peers.items()},
            ),
        ),
    )
