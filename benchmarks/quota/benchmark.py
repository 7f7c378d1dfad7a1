"""`quota`: the share of the vendor's limit that several processes use together, and the requests refused.

Four processes with three OAuth clients send continuously to a simulated vendor that enforces an exact sliding window per client.
The contenders run one after the other, each with its own simulator and Redis database and with the same processes, senders,
connections, window and duration. Ours and the library take turns, five runs each, and the medians count, because other work on
the machine costs a run several percent:

* ours: the quota that all processes share through Redis;
* the guide's rules, applied by each process separately (`benchmarks.quota.guide`);
* the best library with a Redis back end (`benchmarks.quota.library`).

Measured in the workers' transport and checked against the simulator's counters: answers of 200, as a share of what window and
reserve allow, and answers of 429. The first window is warm-up. Requests come in one burst per window, so a count would depend on where
in a window it begins; the share is therefore the mean over all starting points in the second window.

Lanes are measured in one process (`benchmarks.quota.lanes`): polls of backfill while scheduled submits take whatever they can,
and a waiting request of backfill that is raised to interactive.

A further run of ours has the organisation limited below the sum of its clients. The vendor's first refusal names that limit; from
then on the clients share it.

The window is shortened so that a run takes under a minute. What a contender loses per window, such as the latency of an
answer, weighs more than with the vendor's own minute; that holds for all of them.

Not measured: several machines, a remote Redis, and traffic of other users of the same clients.
"""

import asyncio
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import redis
from pydantic import SecretStr

from benchmarks.quota.guide import guide
from benchmarks.quota.lanes import LANE_WINDOW_SECONDS, measure_lanes
from benchmarks.quota.library import NAME as LIBRARY
from benchmarks.quota.library import library
from benchmarks.quota.ours import ours
from benchmarks.quota.processes import Answer, Workers, simulator_process, worker_processes
from benchmarks.quota.setup import Contender, Setup
from benchmarks.result import BenchmarkError, ProgressCallback, Result, Row, Target
from cache_pipeline.embedded import EmbeddedServerError, embedded_servers
from cache_pipeline.simulator import SimulatorError, SimulatorSettings
from cache_pipeline.upstream.http import httpx

_PROCESSES, _SENDERS = 4, 15
# The vendor's minute, shortened. In a much shorter window, the event loop's own delays would outweigh what is measured.
_LIMIT, _RESERVE, _WINDOW = 60, 3, 9.0
_COUNTED_WINDOWS = 3
_RUNS = 5
# One window of warm-up, one in which the count begins, and the counted ones.
_WINDOWS = 2 + _COUNTED_WINDOWS
_CLIENTS = {f"client-{number}": SecretStr(f"secret-{number}") for number in (1, 2, 3)}
#: Below the sum of the clients' limits.
_ORGANISATION_LIMIT = 90
_AVAILABILITY = "/api/v2/analytics/conversations/details/jobs/availability"
# Submits the query whose status the others read, so that their budgets are untouched when they start.
_SUBMITTER = "submitter"
_OURS, _GUIDE = "ours", "guide, per process"
_QUERY = "/api/v2/analytics/reportdata/query"
_BODY = {
    "reportId": "queue-performance",
    "timeGrouping": "byDay",
    "interval": "2024-03-04T00:00:00Z/2024-03-05T00:00:00Z",
}


def measure(progress: ProgressCallback) -> Result:
    """Run the benchmark.

    Raises:
        BenchmarkError: A process failed, or the workers' count differs from the simulator's.
    """
    contenders: dict[str, Contender] = {_OURS: ours, _GUIDE: guide, LIBRARY: library}
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            # PostgreSQL is not needed; with a URL given, none is started.
            embedded_servers(Path(folder) / "servers", postgres_url="postgresql://none") as servers,
        ):
            turns = [name for _ in range(_RUNS) for name in (_OURS, LIBRARY)]
            answers: dict[str, list[list[Answer]]] = {name: [] for name in contenders}
            for name in (*turns, _GUIDE):
                run = f"{name}, run {len(answers[name]) + 1}"
                answers[name].append(
                    _run_contender(
                        contenders[name], servers.redis_url, lambda activity, run=run: progress(f"{run}, {activity}")
                    )
                )
            of_organisation = _run_contender(
                ours,
                servers.redis_url,
                lambda activity: progress(f"organisation limit, {activity}"),
                organisation_limit=_ORGANISATION_LIMIT,
            )
            progress("lanes")
            polls, raised, interactive = asyncio.run(measure_lanes(servers.redis_url))
    except (EmbeddedServerError, SimulatorError) as error:
        raise BenchmarkError(str(error)) from error
    lanes = (
        Row(
            "polls of backfill per window while scheduled submits take whatever they can",
            polls,
            "polls",
            target=Target("ours", ">=", 1),
        ),
        Row(
            "wait of a request of backfill from its raise to interactive (peer: a request that begins as interactive)",
            round(raised, 3),
            "s",
            {"interactive from the beginning": round(interactive, 3)},
            target=Target("ours", "<=", LANE_WINDOW_SECONDS),
        ),
    )
    return Result("quota", (*_rows(answers), *_organisation_rows(of_organisation), *lanes))


def _organisation_rows(answers: list[Answer]) -> tuple[Row, ...]:
    later = [answer for answer in answers if answer.at >= _WINDOW]
    refused = sum(answer.status == 429 for answer in later)
    return (
        Row(
            f"organisation limit of {_ORGANISATION_LIMIT}: answers of 200 ÷ that limit ({_COUNTED_WINDOWS} windows)",
            answers_per_window(answers, _WINDOW, _COUNTED_WINDOWS) / _ORGANISATION_LIMIT,
            "share",
            limit=1.0,
            target=Target("ratio", ">=", 0.95),
        ),
        Row(
            f"organisation limit: requests refused with 429 after the first window ({_WINDOWS - 1} windows)",
            refused / len(later) if later else 1.0,
            "share",
            target=Target("ours", "<=", 0.001),
        ),
    )


def _rows(answers: dict[str, list[list[Answer]]]) -> tuple[Row, ...]:
    allowed = (_LIMIT - _RESERVE) * len(_CLIENTS)

    def row(
        what: str, unit: str, figure: Callable[[list[Answer]], float], limit: float, target: Target | None = None
    ) -> Row:
        figures = {name: median(map(figure, runs)) for name, runs in answers.items()}
        return Row(what, figures.pop(_OURS), unit, figures, limit, target)

    def share(found: list[Answer]) -> float:
        return answers_per_window(found, _WINDOW, _COUNTED_WINDOWS) / allowed

    def refused(found: list[Answer], first: float, last: float) -> int:
        return sum(answer.status == 429 and first * _WINDOW <= answer.at < last * _WINDOW for answer in found)

    shares = {name: median(map(share, runs)) for name, runs in answers.items()}
    is_clean = {name: all(refused(run, 1, _WINDOWS) == 0 for run in runs) for name, runs in answers.items()}
    best = max((name for name in shares if name != _OURS and is_clean[name]), key=shares.__getitem__, default=None)
    compared = (
        Row(
            "the same share, and the best of those without any 429 after the warm-up",
            shares[_OURS],
            "share",
            {} if best is None else {best: shares[best]},
            target=None if best is None else Target("ratio", ">=", 1.0),
        ),
    )
    return (
        row(
            f"answers of 200 ÷ the {allowed} per window that limit and reserve allow ({_COUNTED_WINDOWS} windows)",
            "share",
            share,
            1.0,
            Target("ratio", ">=", 0.99),
        ),
        *compared,
        row(
            f"requests refused with 429 after the warm-up ({_WINDOWS - 1} windows)",
            "answers",
            lambda found: refused(found, 1, _WINDOWS),
            0,
            Target("ours", "=", 0),
        ),
        Row(
            f"requests refused with 429 after the warm-up in any of {_RUNS} runs",
            sum(refused(run, 1, _WINDOWS) for run in answers[_OURS]),
            "answers",
            target=Target("ours", "=", 0),
        ),
        row("requests refused with 429 in the warm-up window", "answers", lambda found: refused(found, 0, 1), 0),
    )


def answers_per_window(answers: Sequence[Answer], window: float, windows: int) -> float:
    """Return answers of 200 per window, as a mean over all starting points of a count over `windows` windows.

    The count starts in the second window, so the answers must span `windows` + 2 windows.
    """

    def share_of_starts_including(at: float) -> float:
        since = at - window
        return max(0.0, min(since, window) - max(since - windows * window, 0.0)) / window

    return sum(share_of_starts_including(answer.at) for answer in answers if answer.status == 200) / windows


def _run_contender(
    contender: Contender, redis_url: str, progress: ProgressCallback, organisation_limit: int | None = None
) -> list[Answer]:
    progress("starting")
    with redis.Redis.from_url(redis_url) as shared:
        shared.flushall()
    settings = SimulatorSettings(
        clients=_CLIENTS | {_SUBMITTER: SecretStr(_SUBMITTER)},
        rate_limit_scope="client",
        rate_window_seconds=_WINDOW,
        reportdata_rate_limit=_LIMIT,
        genesys_rate_limit=_LIMIT,
        genesys_org_rate_limit=organisation_limit,
        job_seconds_base=0,
    )
    with simulator_process(settings) as url, httpx.Client(base_url=url, trust_env=False) as vendor:
        setup = Setup(
            vendor_url=url,
            redis_url=SecretStr(redis_url),
            path=_submit_query(vendor) if organisation_limit is None else _AVAILABILITY,
            clients=_CLIENTS,
            limit=_LIMIT,
            reserve=_RESERVE,
            window=_WINDOW,
            senders=_SENDERS,
        )
        vendor.delete("/simulator/counters").raise_for_status()
        with worker_processes(setup, contender, _PROCESSES, _WINDOWS * _WINDOW) as workers:
            _wait_for_windows(workers, progress)
            answers = workers.answers()
        _compare_counts(answers, vendor.get("/simulator/counters").raise_for_status().json()["calls"])
    return answers


def _submit_query(vendor: httpx.Client) -> str:
    """Submit a query and return the path of its status, which every client may read."""
    token = vendor.post(
        "/oauth/token", auth=httpx.BasicAuth(_SUBMITTER, _SUBMITTER), data={"grant_type": "client_credentials"}
    )
    headers = {"Authorization": f"Bearer {token.raise_for_status().json()['access_token']}"}
    submitted = vendor.post(f"{_QUERY}/async", json=_BODY, headers=headers)
    return f"{_QUERY}/{submitted.raise_for_status().json()['id']}"


def _wait_for_windows(workers: Workers, progress: ProgressCallback) -> None:
    start = workers.start()
    for window in range(_WINDOWS):
        progress(f"window {window + 1} of {_WINDOWS}")
        time.sleep(max(0.0, start + (window + 1) * _WINDOW - time.monotonic()))


def _compare_counts(answers: Sequence[Answer], counted: Sequence[Mapping[str, Any]]) -> None:
    """Check that the workers' count equals the simulator's, apart from requests in flight at the end."""
    for status in (200, 429):
        seen = sum(answer.status == status for answer in answers)
        sent = sum(call["count"] for call in counted if call["status"] == status and call["call"].startswith("GET"))
        if not seen <= sent <= seen + _PROCESSES * _SENDERS:
            raise BenchmarkError(f"the simulator sent {sent} answers of {status}, but the workers saw {seen}")
    others = {answer.status for answer in answers} - {200, 429}
    if others:
        raise BenchmarkError(f"the simulator sent answers of {sorted(others)}, which no contender should cause")
