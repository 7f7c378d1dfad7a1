"""`trace`: upstream calls for a day of fifty dashboards, on a virtual clock.

Ours runs the reading of payloads, the keys and the planning of the service, over coverage in memory in the place of PostgreSQL;
nothing is held when the day begins. The guide's cache has its printed key and its lifetime by the length of the interval (G11);
the URL cache has the same lifetime, and the payload as it came for a key. `limit` is the least possible, by a program of its
own that knows the whole day in advance. Not measured: answers that are cut and proven by their parts, which cost ours more, and
the peers' too long answers, which the vendor would cut without a word.
"""

from datetime import timedelta

from benchmarks.result import BenchmarkError, Result, Row, Target, Tell
from benchmarks.trace.caches import LAG, REPORT, ByKey, Cache, Ours
from benchmarks.trace.least import Rules, least_queries
from benchmarks.trace.trace import requests
from cache_pipeline.storage.ttl import report_freshness

_SEED = 20260329
_GUIDE, _URL = "the guide: normalised key + TTL", "URL cache"


def measure(tell: Tell) -> Result:
    """Run the benchmark.

    Raises:
        BenchmarkError: Ours asked for less than the least possible, so that one of the two is wrong.
    """
    tell("making the day up")
    day = requests(_SEED)
    ours = Ours()
    peers: dict[str, Cache] = {_GUIDE: ByKey(by_url=False), _URL: ByKey(by_url=True)}
    for name, cache in {"ours": ours, **peers}.items():
        tell(f"{name}: {len(day):,} requests")
        for request in day:
            cache.answer(request)
    tell("the least possible")
    least = least_queries(day, Rules(REPORT.zone, LAG, report_freshness(REPORT)))
    if ours.bill.queries < least:
        raise BenchmarkError(f"ours asked {ours.bill.queries} queries, and {least} are the least possible")
    what = f"{len(day):,} requests of 50 dashboards"
    minute = timedelta(minutes=1)
    return Result(
        "trace",
        (
            Row(
                f"{what}: upstream queries",
                ours.bill.queries,
                "queries",
                {name: cache.bill.queries for name, cache in peers.items()},
                limit=least,
                target=Target("ratio", "<=", 1.2),
            ),
            Row(
                f"{what}: requests of the quota",
                ours.bill.requests,
                "requests",
                {name: cache.bill.requests for name, cache in peers.items()},
            ),
            Row(
                "upstream queries of the guide for each of ours",
                peers[_GUIDE].bill.queries / ours.bill.queries,
                "times",
                target=Target("ours", ">=", 10),
            ),
            Row(
                "oldest figures shown that could still change",
                ours.bill.oldest / minute,
                "minutes",
                {name: cache.bill.oldest / minute for name, cache in peers.items()},
            ),
        ),
    )
