"""`jobs`: 1,000 different jobs through RabbitMQ, four workers, one of them killed; what is lost, what is asked twice."""

import asyncio
import os
import signal
import tempfile
import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import httpx
from pydantic import SecretStr

from benchmarks.api import targets
from benchmarks.api.benchmark import REPORT, deployment
from benchmarks.api.servers import Running, process_of
from benchmarks.jobs.rabbitmq import rabbitmq
from benchmarks.quota.processes import simulator_process
from benchmarks.result import BenchmarkError, Result, Row, Target, Tell
from cache_pipeline.api.jobs.job import JobState
from cache_pipeline.api.jobs.job_store import JobStore, connection_pool
from cache_pipeline.api.monitoring.status_queries import StatusQueries
from cache_pipeline.bootstrap import load_reports, migrate_history
from cache_pipeline.embedded import embedded_servers
from cache_pipeline.settings import ApiSettings, JobSettings, Settings
from cache_pipeline.simulator import SimulatorSettings

_JOBS = 1000
_WORKERS = 4
_CONCURRENCY = 50
_PATIENCE = 900.0
_FIRST = datetime(2026, 1, 2, tzinfo=UTC)
#: What the guide's quota lets one OAuth client do (G17, less the reserve): a job is a submit, a poll or two, a page.
_GUIDE_JOBS_A_SECOND = 57 / 60 / 3
#: Vendors take no idempotency key: of a query whose answer was on its way when the worker was killed nobody can know.
_NOTED = """
    SELECT count(*) AS answers, count(DISTINCT interval) AS queries FROM cache_pipeline_state.upstream_query
    WHERE handle IS NOT NULL
"""


def measure(tell: Tell) -> Result:
    """Run it."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        (folder / "reports").mkdir()
        (folder / "reports" / "queue_hour.yaml").write_text(REPORT)
        tell("starting servers")
        stores = stack.enter_context(embedded_servers(folder / "servers"))
        broker = stack.enter_context(rabbitmq(folder / "rabbitmq"))
        simulated = SimulatorSettings(job_seconds_base=1.0, reportdata_rate_limit=1_000_000)
        vendor = stack.enter_context(simulator_process(simulated))
        settings = deployment(stores.postgres_url, stores.redis_url, vendor, folder).model_copy(
            update={
                "api": ApiSettings(auth="off", requests_per_minute=10_000_000),
                "jobs": JobSettings(queue_url=SecretStr(broker), concurrency=_CONCURRENCY),
            }
        )
        migrate_history(settings, load_reports(settings))
        api = stack.enter_context(process_of(targets.api, settings))
        workers = [stack.enter_context(process_of(targets.worker, settings)) for _ in range(_WORKERS)]
        return asyncio.run(_run(tell, settings, api.told, vendor, workers))


async def _run(tell: Tell, settings: Settings, url: str, vendor: str, workers: list[Running]) -> Result:
    tell(f"queueing {_JOBS} jobs")
    started = time.perf_counter()
    slots = asyncio.Semaphore(16)
    async with httpx.AsyncClient(base_url=url, timeout=60) as http, httpx.AsyncClient(base_url=vendor) as admin:

        async def queue(number: int) -> None:
            start = _FIRST + timedelta(hours=number)
            interval = quote(f"{start.isoformat()}/{(start + timedelta(hours=1)).isoformat()}", safe="/:")
            async with slots:
                answer = await http.get(f"/v1/reports/queue_hour?interval={interval}")
            if answer.status_code != 202:
                raise BenchmarkError(f"a job was answered {answer.status_code}: {answer.text[:200]}")

        await asyncio.gather(*(queue(number) for number in range(_JOBS)))
        async with connection_pool(settings.required_postgres_url(), 1) as pool:
            jobs = JobStore(pool)
            await _until(jobs, _JOBS // 4, tell)
            os.kill(workers[0].pid, signal.SIGKILL)
            counts = await _until(jobs, _JOBS, tell)
            took = time.perf_counter() - started
            for kind, count in (await StatusQueries(pool).job_backlog()).failed.items():
                tell(f"{count} jobs failed: {kind}")
            async with pool.connection() as connection:
                [noted] = await (await connection.execute(_NOTED)).fetchall()
        submits = (await admin.get("/simulator/counters")).json()["summary"]["submits"]
    return Result(
        "jobs",
        (
            Row(
                f"{_JOBS} jobs, {_WORKERS} workers, one killed: lost",
                _JOBS - counts[JobState.done],
                "jobs",
                target=Target("ours", "=", 0),
            ),
            Row(
                "the same: sent to the vendor twice, the first's answer noted",
                noted["answers"] - noted["queries"],
                "queries",
                target=Target("ours", "=", 0),
            ),
            Row(
                "the same: sent twice, for the kill came between the first's sending and its being noted",
                submits - noted["answers"],
                "queries",
            ),
            Row(
                "the same: pace, beside what one OAuth client's quota allows (G17)",
                round(_JOBS / took, 1),
                "jobs/s",
                limit=None,
                peers={"the quota of one client": round(_GUIDE_JOBS_A_SECOND, 2)},
            ),
        ),
    )


async def _until(jobs: JobStore, ended: int, tell: Tell) -> dict[JobState, int]:
    deadline = time.monotonic() + _PATIENCE
    while True:
        counts = await jobs.counts()
        over = sum(count for state, count in counts.items() if state.is_finished)
        tell(f"{over} of {_JOBS} jobs have ended")
        if over >= ended:
            return counts
        if time.monotonic() > deadline:
            raise BenchmarkError(f"only {over} of {ended} jobs ended within {_PATIENCE:.0f} s")
        await asyncio.sleep(0.5)
