"""Everything that runs: stores, broker, vendor, API, workers, the proxies between them; and what strikes them."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import httpx
import yaml

from cache_pipeline.query.interval import Interval
from cache_pipeline_tests.api.jobs.rabbitmq import RabbitMQ
from cache_pipeline_tests.chaos.disk import EdgeDisk
from cache_pipeline_tests.chaos.processes import Kept, command_line
from cache_pipeline_tests.chaos.proxy import Link
from cache_pipeline_tests.chaos.schedule import Strike
from cache_pipeline_tests.chaos.stores import Stores, free_port
from cache_pipeline_tests.chaos.truth import Truths
from cache_pipeline_tests.chaos.vendor import CLIENTS, LIMIT, REPORTS, SIMULATOR, WINDOW_SECONDS

REPOSITORY = Path(__file__).parents[2]
#: Python runs this before anything else in every process of ours: asked by a signal, each says what it waits for.
_TELLING = """\
import asyncio, contextlib, signal, sys, traceback

def tell(_number, frame):
    traceback.print_stack(frame)
    with contextlib.suppress(RuntimeError):
        for task in asyncio.all_tasks(asyncio.get_running_loop()):
            task.print_stack(file=sys.stderr)
    sys.stderr.flush()

signal.signal(signal.SIGUSR1, tell)
"""
_WORKERS = ("worker-1", "worker-2")


class System:
    """A deployment in a folder of its own.

    Attributes:
        folder: project and logs.
        environment: of every process of ours.
        stores: PostgreSQL and Valkey.
        disk: what the edge folder lies on.
        api_url, vendor_url: not through a proxy.
        dagster: the backfill that runs, or ran last.
        truths: what the vendor holds.
        cuts: told whenever the vendor begins to cut its answers.
        asked_again: intervals of reports that were asked of the vendor whatever history held.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stores = Stores(folder)
        self.disk = EdgeDisk(folder / "edge")
        self.rabbitmq = RabbitMQ(folder / "rabbitmq")
        self.dagster: subprocess.Popen[bytes] | None = None
        self._api_port, self._vendor_port = free_port(), free_port()
        self.api_url = f"http://127.0.0.1:{self._api_port}"
        self.vendor_url = f"http://127.0.0.1:{self._vendor_port}"
        self.truths = Truths(self.vendor_url)
        self.cuts: asyncio.Queue[None] = asyncio.Queue()
        self.asked_again: list[tuple[str, Interval]] = []
        self.edge_url = f"file://{folder / 'edge'}/v1/default"
        self.links = {
            "vendor": Link("vendor", self._vendor_port),
            "redis": Link("redis", self.stores.redis_port),
            "postgres": Link("postgres", self.stores.postgres_port),
            "rabbitmq": Link("rabbitmq", self.rabbitmq.port),
        }
        self.environment: dict[str, str] = {}
        self._kept: dict[str, Kept] = {}
        self._ours: contextlib.ExitStack = contextlib.ExitStack()

    @property
    def postgres_url(self) -> str:
        """Not through the proxy."""
        return self.stores.postgres_url(self.stores.postgres_port)

    def ended_by_itself(self) -> dict[str, int]:
        """How often each process of ours ended without being killed."""
        return {name: kept.ended_by_itself for name, kept in self._kept.items()}

    async def start(self) -> None:
        """Start everything, and return when the API is ready."""
        self._write_project()
        self.disk.make()
        (self.folder / "edge" / "v1" / "default").mkdir(parents=True)
        await asyncio.gather(asyncio.to_thread(self._start_stores), asyncio.to_thread(self.rabbitmq.start))
        for link in self.links.values():
            await link.start()
        self.environment = self._environment()
        simulator = command_line("simulator", "--port", str(self._vendor_port), "--settings", "vendor.yaml")
        orders = {"simulator": simulator, "api": command_line("api", "--port", str(self._api_port))}
        orders |= {name: command_line("worker") for name in _WORKERS}
        for name, command in orders.items():
            self._kept[name] = Kept(name, command, self.environment, self.folder)
            self._kept[name].start()
        await self.ready()
        await asyncio.to_thread(self.truths.load)

    async def ready(self, seconds: float = 120) -> None:
        """Return when vendor and API answer, and the API has all it stands on."""
        async with asyncio.timeout(seconds), httpx.AsyncClient(timeout=5) as http:
            for url in (f"{self.vendor_url}/simulator/health", f"{self.api_url}/readyz"):
                while True:
                    with contextlib.suppress(httpx.HTTPError):
                        if (await http.get(url)).status_code == 200:
                            break
                    await asyncio.sleep(0.2)

    def tell(self) -> None:
        """Have every process say in its log what it waits for."""
        for kept in self._kept.values():
            kept.signal(signal.SIGUSR1)

    async def stop(self) -> None:
        """Stop everything."""
        await asyncio.gather(*(asyncio.to_thread(kept.stop) for kept in self._kept.values()))
        for link in self.links.values():
            await link.close()
        await asyncio.to_thread(self.rabbitmq.stop)
        await asyncio.to_thread(self.stores.stop)
        self.disk.remove()

    async def strike(self, strike: Strike) -> None:
        """Let something go wrong, and mend it when its time is over."""
        await {
            "kill": self._kill,
            "cut": self._disturb,
            "stall": self._disturb,
            "slow": self._disturb,
            "disk": self._fill,
            "fault": self._fault,
            "truncation": self._truncate,
            "restatement": self._restate,
        }[strike.kind](strike)

    async def _kill(self, strike: Strike) -> None:
        if strike.target == "dagster":
            if self.dagster is not None and self.dagster.poll() is None:
                os.killpg(self.dagster.pid, signal.SIGKILL)
            return
        if strike.target in self._kept:
            kept = self._kept[strike.target]
            await asyncio.to_thread(kept.kill)
            await asyncio.sleep(strike.seconds)
            kept.revive()
            return
        stop, start = {
            "redis": (self.stores.kill_redis, self.stores.start_redis),
            "postgres": (self.stores.kill_postgres, self.stores.start_postgres),
            "rabbitmq": (self.rabbitmq.kill, self.rabbitmq.start),
        }[strike.target]
        await asyncio.to_thread(stop)
        try:
            await asyncio.sleep(strike.seconds)
        finally:
            await asyncio.to_thread(start)

    async def _disturb(self, strike: Strike) -> None:
        link = self.links[strike.target]
        {"cut": link.cut, "stall": link.stall, "slow": lambda: link.slow(strike.amount)}[strike.kind]()
        await asyncio.sleep(strike.seconds)
        link.mend()

    async def _fill(self, strike: Strike) -> None:
        self.disk.fill(self.dagster)
        await asyncio.sleep(strike.seconds)
        self.disk.empty()

    async def _fault(self, strike: Strike) -> None:
        await self._set_faults({strike.target: int(strike.amount)})

    async def _restate(self, strike: Strike) -> None:
        await asyncio.to_thread(self.truths.restate, int(strike.amount))

    async def _truncate(self, strike: Strike) -> None:
        await self._set_faults({"max_rows": int(strike.amount)})
        self.cuts.put_nowait(None)
        await asyncio.sleep(strike.seconds)
        await self._set_faults({"max_rows": None})

    async def _set_faults(self, faults: dict[str, Any]) -> None:
        url = f"{self.vendor_url}/simulator/faults"
        async with httpx.AsyncClient(timeout=20) as http:
            now = (await http.get(url)).json()
            (await http.post(url, json={**now, **faults})).raise_for_status()

    async def calm(self) -> None:
        """Mend all that may still be wrong."""
        self.disk.empty()
        for link in self.links.values():
            link.mend()
        async with httpx.AsyncClient(timeout=20) as http:
            await http.delete(f"{self.vendor_url}/simulator/faults")
        await self.ready()

    def _start_stores(self) -> None:
        self.stores.prepare()
        self.stores.start_redis()
        self.stores.start_postgres()

    def _write_project(self) -> None:
        (self.folder / "reports").mkdir()
        for report in REPORTS:
            (self.folder / "reports" / f"{report.name}.yaml").write_text(report.text)
        (self.folder / "sitecustomize.py").write_text(_TELLING)
        (self.folder / "vendor.yaml").write_text(yaml.safe_dump(SIMULATOR))
        for name in ("dagster.yaml", "workspace.yaml"):
            shutil.copy(REPOSITORY / name, self.folder)

    def _environment(self) -> dict[str, str]:
        vendor = f"http://127.0.0.1:{self.links['vendor'].port}"
        account = {
            "base_url": vendor,
            "login_url": f"{vendor}/oauth/token",
            "clients": [{"client_id": name, "client_secret": secret} for name, secret in CLIENTS.items()],
            "rate_limit": LIMIT,
            "window_seconds": WINDOW_SECONDS,
            "pause_seconds": WINDOW_SECONDS,
            # Every job here is done within two.
            "job_deadline_seconds": 8,
        }
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("CACHE_PIPELINE_")}
        return {
            **inherited,
            "PYTHONPATH": f"{self.folder}:{REPOSITORY}",
            "DAGSTER_HOME": str(self.folder),
            "CACHE_PIPELINE_POSTGRES_URL": self.stores.postgres_url(self.links["postgres"].port),
            "CACHE_PIPELINE_REDIS_URL": self.stores.redis_url(self.links["redis"].port),
            "CACHE_PIPELINE_JOBS__QUEUE_URL": f"amqp://guest:guest@127.0.0.1:{self.links['rabbitmq'].port}",
            "CACHE_PIPELINE_JOBS__LEASE_SECONDS": "4",
            "CACHE_PIPELINE_JOBS__DRAIN_SECONDS": "3",
            # Here workers die by our hand, again and again, and never of a job.
            "CACHE_PIPELINE_JOBS__MAX_ATTEMPTS": "20",
            "CACHE_PIPELINE_EDGE_URL": f"file://{self.folder / 'edge'}",
            "CACHE_PIPELINE_API__AUTH": "off",
            "CACHE_PIPELINE_API__REQUESTS_PER_MINUTE": "1000000",
            "CACHE_PIPELINE_REPORTDATA": json.dumps(account),
            "CACHE_PIPELINE_GENESYS": json.dumps(account),
        }
