"""The deployment under test (stores, broker, vendor, API, workers, proxies between them), and how to inject each fault."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import yaml

from cache_pipeline.query.interval import Interval
from cache_pipeline_tests.api.jobs.rabbitmq import RabbitMQ
from cache_pipeline_tests.chaos.disk import EdgeDisk
from cache_pipeline_tests.chaos.faults import Fault
from cache_pipeline_tests.chaos.outcome import Outcome
from cache_pipeline_tests.chaos.processes import SupervisedProcess, cli_command
from cache_pipeline_tests.chaos.proxy import TcpProxy
from cache_pipeline_tests.chaos.scenario import CLIENTS, LIMIT, REPORTS, SIMULATOR, WINDOW_SECONDS
from cache_pipeline_tests.chaos.server_pairs import PostgresPair, RedisPair
from cache_pipeline_tests.chaos.slow_readers import SlowReaders
from cache_pipeline_tests.chaos.truth import VendorTruth
from cache_pipeline_tests.storage.postgres.pgbouncer import PgBouncer
from cache_pipeline_tests.storage.redis.valkey_servers import free_port

REPOSITORY = Path(__file__).parents[2]
#: Python imports this as ``sitecustomize`` in every child process. SIGUSR1 then prints the stacks of all tasks.
_SITECUSTOMIZE = """\
import asyncio, contextlib, signal, sys, traceback

def dump_stacks(_number, frame):
    traceback.print_stack(frame)
    with contextlib.suppress(RuntimeError):
        for task in asyncio.all_tasks(asyncio.get_running_loop()):
            task.print_stack(file=sys.stderr)
    sys.stderr.flush()

signal.signal(signal.SIGUSR1, dump_stacks)
"""
_POSTGRES_URL, _DAGSTER_URL = "CACHE_PIPELINE_POSTGRES_URL", "DAGSTER_POSTGRES_URL"
_WORKERS = ("worker-1", "worker-2")
#: Processes that reach PostgreSQL through the pooler. The others name both of its servers.
_POOLED = ("api", "worker-1")
_POOLER_SETTINGS = {
    # More than the 21 connections of an api process and the 14 of a worker, so that none waits for another's transaction.
    "default_pool_size": 40,
    # By default, clients are refused for 15 s after one failed connection to the server.
    "server_login_retry": 1,
    # As long as the other processes wait for a server that does not answer (15 s by default).
    "server_connect_timeout": 5,
    # A statement that finds no server fails, rather than after two minutes when its caller has left.
    "query_wait_timeout": 10,
}


class System:
    """A deployment in a folder of its own.

    Attributes:
        folder: Folder of the project and the logs.
        environment: Environment variables of Dagster, and of every other process that reaches PostgreSQL without the pooler.
        postgres: PostgreSQL with a standby.
        redis: Redis with a replica.
        disk: Disk of the edge folder.
        api_url: URL of the HTTP API, not through a proxy.
        vendor_url: URL of the simulated vendor, not through a proxy.
        dagster: The current backfill, or the last one.
        truth: The vendor's data.
        truncations: Receives an item whenever the vendor begins to truncate its answers.
        refetched: Names and intervals of reports that were refetched although history covered them.
    """

    def __init__(self, folder: Path, outcome: Outcome) -> None:
        self.folder = folder
        self._outcome = outcome
        # First what may be missing on this machine, before any server runs.
        self.rabbitmq = RabbitMQ(folder / "rabbitmq")
        self.pooler = PgBouncer(folder / "pooler", _POOLER_SETTINGS)
        self._servers = ExitStack()
        self.postgres = PostgresPair(self._servers)
        self.redis = RedisPair(folder / "redis")
        self.disk = EdgeDisk(folder / "edge")
        self.dagster: subprocess.Popen[bytes] | None = None
        self._api_port, self._vendor_port = free_port(), free_port()
        self.api_url = f"http://127.0.0.1:{self._api_port}"
        self.vendor_url = f"http://127.0.0.1:{self._vendor_port}"
        self.truth = VendorTruth(self.vendor_url)
        self.truncations: asyncio.Queue[None] = asyncio.Queue()
        self.refetched: list[tuple[str, Interval]] = []
        self.edge_url = f"file://{folder / 'edge'}/v1/default"
        self.proxies = {
            "vendor": [TcpProxy("vendor", self._vendor_port)],
            "redis": self.redis.proxies,
            "postgres": self.postgres.proxies,
            "rabbitmq": [TcpProxy("rabbitmq", self.rabbitmq.port)],
        }
        self.environment: dict[str, str] = {}
        self._processes: dict[str, SupervisedProcess] = {}

    @property
    def postgres_url(self) -> str:
        """Return the URL of both servers of PostgreSQL, not through the proxies."""
        return self.postgres.url

    def unexpected_exits(self) -> dict[str, int]:
        """Return how often each child process ended without being killed."""
        return {name: process.unexpected_exits for name, process in self._processes.items()}

    async def start(self) -> None:
        """Start the deployment and wait until the API is ready."""
        self._write_project()
        self.disk.create()
        (self.folder / "edge" / "v1" / "default").mkdir(parents=True)
        for proxy in self._all_proxies():
            await proxy.start()
        await asyncio.gather(
            *(asyncio.to_thread(start) for start in (self.redis.start, self.rabbitmq.start, self._start_pooler))
        )
        self.environment = self._environment()
        pooled = {**self.environment, _POSTGRES_URL: self.pooler.url(self.postgres.address_url)}
        simulator = cli_command("simulator", "--port", str(self._vendor_port), "--settings", "vendor.yaml")
        commands = {"simulator": simulator, "api": cli_command("api", "--port", str(self._api_port))}
        commands |= {name: cli_command("worker") for name in _WORKERS}
        for name, command in commands.items():
            environment = pooled if name in _POOLED else self.environment
            self._processes[name] = SupervisedProcess(name, command, environment, self.folder)
            self._processes[name].start()
        # Dagster cannot finish creating its tables if it is killed while it does so for the first time.
        await asyncio.to_thread(self._create_dagster_tables)
        await self.wait_until_ready()
        await asyncio.to_thread(self.truth.load)

    def _start_pooler(self) -> None:
        self.pooler.start(self.postgres.address_url)

    def _create_dagster_tables(self) -> None:
        command = [sys.executable, "-m", "dagster", "instance", "migrate"]
        subprocess.run(command, env=self.environment, cwd=self.folder, check=True, capture_output=True)

    async def wait_until_ready(self, seconds: float = 120) -> None:
        """Wait until the vendor answers and the API and its dependencies are ready."""
        async with asyncio.timeout(seconds), httpx.AsyncClient(timeout=5) as http:
            for url in (f"{self.vendor_url}/simulator/health", f"{self.api_url}/readyz"):
                while True:
                    with contextlib.suppress(httpx.HTTPError):
                        if (await http.get(url)).status_code == 200:
                            break
                    await asyncio.sleep(0.2)

    def dump_stacks(self) -> None:
        """Have every process write the stacks of its tasks to its log."""
        for process in self._processes.values():
            process.signal(signal.SIGUSR1)

    async def stop(self) -> None:
        """Stop the deployment."""
        await asyncio.gather(*(asyncio.to_thread(process.stop) for process in self._processes.values()))
        for proxy in self._all_proxies():
            await proxy.close()
        for stop in (self.rabbitmq.stop, self.redis.stop, self.pooler.stop):
            await asyncio.to_thread(stop)
        self.postgres.keep_logs(self.folder)
        await asyncio.to_thread(self._servers.close)
        self.disk.remove()

    def _all_proxies(self) -> list[TcpProxy]:
        return [proxy for proxies in self.proxies.values() for proxy in proxies]

    async def inject(self, fault: Fault) -> None:
        """Inject a fault, and undo it after its duration."""
        await {
            "kill": self._kill,
            "cut": self._degrade_connection,
            "stall": self._degrade_connection,
            "slow": self._degrade_connection,
            "disk": self._fill_disk,
            "read_only": self._change_redis,
            "full": self._change_redis,
            "unsaved": self._change_redis,
            "emptied": self._change_redis,
            "failover": self._fail_over,
            "standby": lambda fault: self.postgres.restart_standby(fault.seconds),
            "switchover": lambda _fault: self.redis.switch_over(),
            "half_requests": self._send_half_requests,
            "slow_readers": self._read_slowly,
            "fault": self._inject_vendor_fault,
            "truncation": self._truncate,
            "restatement": self._restate,
        }[fault.kind](fault)

    async def _kill(self, fault: Fault) -> None:
        if fault.target == "dagster":
            if self.dagster is not None and self.dagster.poll() is None:
                os.killpg(self.dagster.pid, signal.SIGKILL)
            return
        if fault.target in self._processes:
            process = self._processes[fault.target]
            await asyncio.to_thread(process.kill)
            await asyncio.sleep(fault.seconds)
            process.allow_restart()
            return
        if fault.target in ("redis", "postgres"):
            await {"redis": self.redis, "postgres": self.postgres}[fault.target].restart(fault.seconds)
            return
        kill, start = {
            "rabbitmq": (self.rabbitmq.kill, self.rabbitmq.start),
            "pooler": (self.pooler.kill, self._start_pooler),
        }[fault.target]
        await asyncio.to_thread(kill)
        await asyncio.sleep(fault.seconds)
        await asyncio.to_thread(start)

    async def _fail_over(self, fault: Fault) -> None:
        await {"redis": self.redis.promote, "postgres": self.postgres.fail_over}[fault.target](fault.seconds)

    async def _degrade_connection(self, fault: Fault) -> None:
        for proxy in self.proxies[fault.target]:
            {"cut": proxy.cut, "stall": proxy.stall, "slow": partial(proxy.slow, fault.amount)}[fault.kind]()
        await asyncio.sleep(fault.seconds)
        for proxy in self.proxies[fault.target]:
            proxy.restore()

    async def _fill_disk(self, fault: Fault) -> None:
        self.disk.fill(self.dagster)
        await asyncio.sleep(fault.seconds)
        self.disk.free()

    async def _change_redis(self, fault: Fault) -> None:
        async with self.redis.state(fault.kind):
            await asyncio.sleep(fault.seconds)

    async def _send_half_requests(self, fault: Fault) -> None:
        """Hold more connections open than the API keeps, each with a request that never ends."""
        writers: list[asyncio.StreamWriter] = []
        try:
            for _ in range(int(fault.amount)):
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", self._api_port)
                    writers.append(writer)
                    writer.write(b"GET /healthz HTTP/1.1\r\nHost: api\r\n")
            await asyncio.sleep(fault.seconds)
        finally:
            for writer in writers:
                writer.transport.abort()

    async def _read_slowly(self, fault: Fault) -> None:
        readers = SlowReaders(self._processes["api"], self._api_port, self.postgres_url, self._outcome)
        await readers.run(int(fault.amount), fault.seconds)

    async def _inject_vendor_fault(self, fault: Fault) -> None:
        await self._set_faults({fault.target: int(fault.amount)})

    async def _restate(self, fault: Fault) -> None:
        await asyncio.to_thread(self.truth.restate, int(fault.amount))

    async def _truncate(self, fault: Fault) -> None:
        await self._set_faults({"max_rows": int(fault.amount)})
        self.truncations.put_nowait(None)
        await asyncio.sleep(fault.seconds)
        await self._set_faults({"max_rows": None})

    async def _set_faults(self, faults: dict[str, Any]) -> None:
        url = f"{self.vendor_url}/simulator/faults"
        async with httpx.AsyncClient(timeout=20) as http:
            current = (await http.get(url)).json()
            (await http.post(url, json={**current, **faults})).raise_for_status()

    async def clear_faults(self) -> None:
        """Undo every fault that may still be active, and wait until the API is ready."""
        self.disk.free()
        for proxy in self._all_proxies():
            proxy.restore()
        async with httpx.AsyncClient(timeout=20) as http:
            await http.delete(f"{self.vendor_url}/simulator/faults")
        await self.wait_until_ready()

    def _write_project(self) -> None:
        (self.folder / "reports").mkdir()
        for report in REPORTS:
            (self.folder / "reports" / f"{report.name}.yaml").write_text(report.text)
        (self.folder / "sitecustomize.py").write_text(_SITECUSTOMIZE)
        (self.folder / "vendor.yaml").write_text(yaml.safe_dump(SIMULATOR))
        shutil.copy(REPOSITORY / "workspace.yaml", self.folder)
        # Dagster's storage takes one host: see docs/scaling.md.
        dagster = (REPOSITORY / "dagster.yaml").read_text().replace(_POSTGRES_URL, _DAGSTER_URL)
        (self.folder / "dagster.yaml").write_text(dagster)

    def _environment(self) -> dict[str, str]:
        ((to_vendor,), (rabbitmq,)) = (self.proxies[name] for name in ("vendor", "rabbitmq"))
        vendor = f"http://127.0.0.1:{to_vendor.port}"
        account = {
            "base_url": vendor,
            "login_url": f"{vendor}/oauth/token",
            "clients": [{"client_id": name, "client_secret": secret} for name, secret in CLIENTS.items()],
            "rate_limit": LIMIT,
            "window_seconds": WINDOW_SECONDS,
            "pause_seconds": WINDOW_SECONDS,
            # Every job here takes at most two seconds.
            "job_deadline_seconds": 8,
        }
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("CACHE_PIPELINE_")}
        return {
            **inherited,
            "PYTHONPATH": f"{self.folder}:{REPOSITORY}",
            "DAGSTER_HOME": str(self.folder),
            _POSTGRES_URL: self.postgres.proxied_url,
            _DAGSTER_URL: self.postgres.address_url,
            "CACHE_PIPELINE_REDIS_URL": self.redis.url,
            "CACHE_PIPELINE_JOBS__QUEUE_URL": f"amqp://guest:guest@127.0.0.1:{rabbitmq.port}",
            "CACHE_PIPELINE_JOBS__LEASE_SECONDS": "4",
            "CACHE_PIPELINE_JOBS__DRAIN_SECONDS": "3",
            # The run kills workers many times; that must not dead-letter their jobs.
            "CACHE_PIPELINE_JOBS__MAX_ATTEMPTS": "20",
            "CACHE_PIPELINE_EDGE_URL": f"file://{self.folder / 'edge'}",
            "CACHE_PIPELINE_API__AUTH": "off",
            "CACHE_PIPELINE_API__REQUESTS_PER_MINUTE": "1000000",
            "CACHE_PIPELINE_ACCOUNTS__REPORTDATA__MAIN": json.dumps(account),
            "CACHE_PIPELINE_ACCOUNTS__GENESYS__MAIN": json.dumps(account),
        }
