"""`quota`: how much of the vendor's limit several processes use together, and how often they are refused.

Four processes with three OAuth clients send without pause at a simulated vendor that enforces its sliding window for each
client, to the instant. Three contenders, one after the other, each with a simulator and a Redis database of its own and
with the same processes, senders, connections, window and duration:

* ours: the quota that all processes share through Redis;
* the guide's rules, kept by each process for itself (`benchmarks.quota.guide`);
* the best library with a Redis back end (`benchmarks.quota.library`).

Measured, at the workers' wire and checked against the simulator's own count: answers of 200, as a share of what window and
reserve allow, and answers of 429. The first window is warm-up. Requests come in bursts, one a window, and where a count begins
within a window would decide whether it sees one burst more; so the share is the mean over every instant of the second
window at which the count may begin.

The window is shortened, so that a run takes under two minutes. Whatever a contender loses by the window, such as the time an
answer takes, weighs more than in the vendor's own minute; that holds for all of them.

Not measured: fairness between lanes, several machines, a Redis far away, and traffic of strangers with the same clients.
"""

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import redis
from pydantic import SecretStr

from benchmarks.quota.guide import guide
from benchmarks.quota.library import NAME as LIBRARY
from benchmarks.quota.library import library
from benchmarks.quota.ours import ours
from benchmarks.quota.processes import Answer, Workers, simulator_process, worker_processes
from benchmarks.quota.setup import Contender, Setup
from benchmarks.result import BenchmarkError, Result, Row, Target, Tell
from cache_pipeline.embedded import EmbeddedServerError, embedded_servers
from cache_pipeline.simulator import SimulatorError, SimulatorSettings
from cache_pipeline.upstream.http import httpx

_PROCESSES, _SENDERS = 4, 15
# The vendor's minute, shortened. Much shorter, and what a turn of the loop takes outweighs what is measured.
_LIMIT, _RESERVE, _WINDOW = 60, 3, 9.0
_COUNTED_WINDOWS = 3
# One to warm up, one in which the count begins, and as many more as are counted.
_WINDOWS = 2 + _COUNTED_WINDOWS
_CLIENTS = {f"client-{number}": SecretStr(f"secret-{number}") for number in (1, 2, 3)}
# Asks for what the others then read, so that their budgets are untouched when they begin.
_PREPARER = "preparer"
_OURS, _GUIDE = "ours", "guide, per process"
_QUERY = "/api/v2/analytics/reportdata/query"
_BODY = {
    "reportId": "queue-performance",
    "timeGrouping": "byDay",
    "interval": "2024-03-04T00:00:00Z/2024-03-05T00:00:00Z",
}


def measure(tell: Tell) -> Result:
    """Run the benchmark.

    Raises:
        BenchmarkError: A process failed, or the workers' count is not the simulator's.
    """
    contenders: dict[str, Contender] = {_OURS: ours, _GUIDE: guide, LIBRARY: library}
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            # No PostgreSQL is needed, and none is started where an address is given.
            embedded_servers(Path(folder) / "servers", postgres_url="postgresql://none") as servers,
        ):
            answers = {
                name: _answers_of(contender, servers.redis_url, lambda doing, name=name: tell(f"{name}, {doing}"))
                for name, contender in contenders.items()
            }
    except (EmbeddedServerError, SimulatorError) as error:
        raise BenchmarkError(str(error)) from error
    return Result("quota", _rows(answers))


def _rows(answers: dict[str, list[Answer]]) -> tuple[Row, ...]:
    allowed = (_LIMIT - _RESERVE) * len(_CLIENTS)

    def row(
        what: str, unit: str, figure: Callable[[list[Answer]], float], limit: float, target: Target | None = None
    ) -> Row:
        figures = {name: figure(found) for name, found in answers.items()}
        return Row(what, figures.pop(_OURS), unit, figures, limit, target)

    def refused(found: list[Answer], first: float, last: float) -> int:
        return sum(answer.status == 429 and first * _WINDOW <= answer.at < last * _WINDOW for answer in found)

    return (
        row(
            f"answers of 200, of the {allowed} a window that window and reserve allow ({_COUNTED_WINDOWS} windows)",
            "share",
            lambda found: answered_in_a_window(found, _WINDOW, _COUNTED_WINDOWS) / allowed,
            1.0,
            Target("ratio", ">=", 0.97),
        ),
        row(
            f"answers of 429 after the warm-up ({_WINDOWS - 1} windows)",
            "answers",
            lambda found: refused(found, 1, _WINDOWS),
            0,
            Target("ours", "=", 0),
        ),
        row("answers of 429 in the warm-up window", "answers", lambda found: refused(found, 0, 1), 0),
    )


def answered_in_a_window(answers: Sequence[Answer], window: float, windows: int) -> float:
    """Answers of 200 in a window: counted over so many windows, the mean over every instant at which to begin.

    The count begins somewhere in the second window, so the answers must span `windows` + 2 windows.
    """

    def share_of_counts_that_hold(at: float) -> float:
        since = at - window
        return max(0.0, min(since, window) - max(since - windows * window, 0.0)) / window

    return sum(share_of_counts_that_hold(answer.at) for answer in answers if answer.status == 200) / windows


def _answers_of(contender: Contender, redis_url: str, tell: Tell) -> list[Answer]:
    tell("getting ready")
    with redis.Redis.from_url(redis_url) as shared:
        shared.flushall()
    settings = SimulatorSettings(
        clients=_CLIENTS | {_PREPARER: SecretStr(_PREPARER)},
        rate_limit_scope="client",
        rate_window_seconds=_WINDOW,
        reportdata_rate_limit=_LIMIT,
        job_seconds_base=0,
    )
    with simulator_process(settings) as url, httpx.Client(base_url=url, trust_env=False) as vendor:
        setup = Setup(
            vendor_url=url,
            redis_url=SecretStr(redis_url),
            path=_submitted(vendor),
            clients=_CLIENTS,
            limit=_LIMIT,
            reserve=_RESERVE,
            window=_WINDOW,
            senders=_SENDERS,
        )
        vendor.delete("/simulator/counters").raise_for_status()
        with worker_processes(setup, contender, _PROCESSES, _WINDOWS * _WINDOW) as workers:
            _follow(workers, tell)
            answers = workers.answers()
        _check(answers, vendor.get("/simulator/counters").raise_for_status().json()["calls"])
    return answers


def _submitted(vendor: httpx.Client) -> str:
    """Submit a query, and return the path of its status, which every client may read."""
    token = vendor.post(
        "/oauth/token", auth=httpx.BasicAuth(_PREPARER, _PREPARER), data={"grant_type": "client_credentials"}
    )
    headers = {"Authorization": f"Bearer {token.raise_for_status().json()['access_token']}"}
    submitted = vendor.post(f"{_QUERY}/async", json=_BODY, headers=headers)
    return f"{_QUERY}/{submitted.raise_for_status().json()['id']}"


def _follow(workers: Workers, tell: Tell) -> None:
    start = workers.begin()
    for window in range(_WINDOWS):
        tell(f"window {window + 1} of {_WINDOWS}")
        time.sleep(max(0.0, start + (window + 1) * _WINDOW - time.monotonic()))


def _check(answers: Sequence[Answer], counted: Sequence[Mapping[str, Any]]) -> None:
    """Check that the workers count what the simulator counts, apart from requests in flight at the end."""
    for status in (200, 429):
        seen = sum(answer.status == status for answer in answers)
        given = sum(call["count"] for call in counted if call["status"] == status and call["call"].startswith("GET"))
        if not seen <= given <= seen + _PROCESSES * _SENDERS:
            raise BenchmarkError(f"the simulator gave {given} answers of {status}, and the workers saw {seen}")
    others = {answer.status for answer in answers} - {200, 429}
    if others:
        raise BenchmarkError(f"the simulator gave answers of {sorted(others)}, which no contender should cause")
