"""A small deployment of real processes, monitored by a real Prometheus with the rules of deploy/prometheus."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import psycopg
import redis
import yaml

from cache_pipeline.bootstrap.accounts import connect_vendor
from cache_pipeline.bootstrap.reports import load_reports, report_columns
from cache_pipeline.embedded import embedded_servers
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.schema import to_arrow_schema
from cache_pipeline.query.series import Series
from cache_pipeline.rows.rows import Rows
from cache_pipeline.settings import Settings
from cache_pipeline.simulator import SimulatorSettings, running_simulator
from cache_pipeline.storage.coverage import FetchTime
from cache_pipeline.storage.ports.history import Replacement
from cache_pipeline.storage.postgres.history import open_history
from cache_pipeline_tests.deploy.rules import REPOSITORY, groups
from cache_pipeline_tests.programs import find_program
from cache_pipeline_tests.telemetry.collector import running_collector

#: Ten minutes of an alert's waiting time are one second here.
_FASTER = 600
_SECONDS = {"s": 1, "m": 60, "h": 3600}
_REPORT = """name: {name}
description: Offered by queue, by hour
platform: {platform}
query_type: {query_type}
granularity: PT1H
time_zone: UTC
group_by: [queueId]
metrics: [{metric}]
volume_metric: {metric}
partition: {partition}
start: {start}
fetch:
  expected_groups: 8
{more}
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def working_days(count):
    """Return recent past working days, oldest first, as midnights in UTC."""
    day, found = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=3), []
    while len(found) < count:
        day -= timedelta(days=1)
        if day.weekday() < 5:
            found.append(day)
    return found[::-1]


def interval(start, hours):
    return f"{start:%Y-%m-%dT%H:%M:%SZ}/{start + timedelta(hours=hours):%Y-%m-%dT%H:%M:%SZ}"


def wait_for(check, seconds=40, describe=lambda: None):
    deadline = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < deadline, describe()
        time.sleep(0.1)
    return found


class Deployment:
    """Servers, a simulated vendor, an API and a worker, each a process that can be killed."""

    def __init__(self, folder, servers, vendor_url, collector):
        self.folder, self.servers, self.vendor_url, self.collector = folder, servers, vendor_url, collector
        self.edge_url = f"file://{folder}/edge"
        self._stack = ExitStack()
        self._declare()
        clients = [{"client_id": "demo-client", "client_secret": "demo-secret"}]
        wrong_clients = [{"client_id": "demo-client", "client_secret": "not the secret"}]
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("CACHE_PIPELINE_")},
            "CACHE_PIPELINE_POSTGRES_URL": servers.postgres_url,
            "CACHE_PIPELINE_REDIS_URL": servers.redis_url,
            "CACHE_PIPELINE_EDGE_URL": self.edge_url,
            "CACHE_PIPELINE_API__AUTH": "off",
            "CACHE_PIPELINE_JOBS__LEASE_SECONDS": "2",
            "CACHE_PIPELINE_JOBS__MAX_ATTEMPTS": "1",
            "CACHE_PIPELINE_TRACES": "otlp",
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_BSP_SCHEDULE_DELAY": "300",
            **_account("REPORTDATA", vendor_url, clients),
            **_account("GENESYS", vendor_url, wrong_clients),
        }
        # A worker would log in to read the account's limits; only the queries of a test shall use the wrong secret.
        genesys = {"base_url": vendor_url, "login_url": f"{vendor_url}/oauth/token", "clients": wrong_clients}
        account = connect_vendor(Settings(accounts={"genesys": {"main": genesys}}), "genesys/main")
        with self.redis() as client:
            client.set(account.config.keys.facts_read, "1")
        self.port = free_port()
        self.api = self._start("api", "--port", str(self.port))
        self.worker = self._start("worker")
        self.http = self._stack.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=40))
        wait_for(self._is_ready, 120, lambda: (folder / "api.log").read_text())
        self.store_whole_report("answered_hour")

    def _declare(self):
        reports = self.folder / "reports"
        reports.mkdir()
        last_week = datetime.now(UTC).date() - timedelta(days=7)
        for name, platform, query_type, metric, partition, start, more in (
            ("queue_hour", "reportdata", "queue-performance", "offered", "day", "2026-01-01", ""),
            ("queue_now", "reportdata", "queue-performance", "offered", "hour", "2026-01-01", "freshness: {ttl: PT1S}"),
            ("calls_hour", "genesys", "conversations", "nOffered", "day", "2026-01-01", ""),
            (
                "answered_hour",
                "reportdata",
                "queue-performance",
                "answered",
                "day",
                last_week,
                "publish: {tiers: [history]}",
            ),
        ):
            (reports / f"{name}.yaml").write_text(
                _REPORT.format(
                    name=name,
                    platform=platform,
                    query_type=query_type,
                    metric=metric,
                    partition=partition,
                    start=start,
                    more=more,
                )
            )

    def store_whole_report(self, name):
        """Let history hold all of a report, without rows."""
        settings = Settings(postgres_url=self.servers.postgres_url, reports_dir=self.folder / "reports")
        report = load_reports(settings)[name]
        now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
        whole = IntervalSet([Interval(now - timedelta(days=30), now + timedelta(days=30))])
        rows = Rows.from_table(to_arrow_schema(report_columns(report)).empty_table())
        with open_history(self.servers.postgres_url) as history:
            history.replace(Replacement(Series(report), whole, IntervalSet(), rows, now, (FetchTime(whole, now),)))

    def _start(self, *command):
        with (self.folder / f"{command[0]}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", "from cache_pipeline.cli.main import main; main()", *command],
                cwd=self.folder,
                env={**self.environment, "PYTHONPATH": str(REPOSITORY)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._stack.callback(_end, process)
        return process

    def _is_ready(self):
        assert self.api.poll() is None, (self.folder / "api.log").read_text()
        try:
            workers = re.search(r'workers{state="alive"} (\d)', self.http.get("/metrics").text)
        except httpx.TransportError:
            return False
        return workers is not None and int(workers[1]) == 1

    def close(self):
        self._stack.close()

    def ask(self, report, interval, wait=30, **headers):
        headers = {"Prefer": f"wait={wait}", **headers}
        return self.http.get(f"/v1/reports/{report}", params={"interval": interval}, headers=headers)

    def faults(self, **faults):
        httpx.post(f"{self.vendor_url}/simulator/faults", json=faults).raise_for_status()

    def sql(self, statement):
        with psycopg.connect(self.servers.postgres_url, autocommit=True) as connection:
            assert connection.execute(statement).rowcount > 0

    def redis(self):
        return redis.Redis.from_url(self.servers.redis_url)

    def kill_redis(self):
        with self.redis() as client:
            os.kill(client.info("server")["process_id"], signal.SIGKILL)

    def kill_postgresql(self):
        (pid_file,) = (self.folder / "servers").rglob("postmaster.pid")
        os.kill(int(pid_file.read_text().split()[0]), signal.SIGQUIT)


def _account(platform, url, clients):
    prefix = f"CACHE_PIPELINE_ACCOUNTS__{platform}__MAIN__"
    return {
        f"{prefix}BASE_URL": url,
        f"{prefix}LOGIN_URL": f"{url}/oauth/token",
        f"{prefix}CLIENTS": json.dumps(clients),
        f"{prefix}RATE_LIMIT": "100000",
        f"{prefix}POLL_POLICY": "adaptive",
    }


def _end(process):
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Prometheus:
    """A real Prometheus whose alerts fire sooner than in production."""

    def __init__(self, folder, target):
        self._target, self._folder = target, folder
        folder.mkdir()
        rules = groups()
        for rule in (rule for group in rules for rule in group["rules"]):
            # Nothing but queries of the API fetches the other reports, so that most of their partitions are missing.
            missing = "cache_pipeline_report_missing_partitions"
            rule["expr"] = rule["expr"].replace(missing, f'{missing}{{report="answered_hour"}}')
            if "for" in rule:
                number, unit = int(rule["for"][:-1]), rule["for"][-1]
                rule["for"] = f"{number * _SECONDS[unit] * 1000 // _FASTER}ms"
        (folder / "rules.yml").write_text(yaml.safe_dump({"groups": rules}))
        self._configure("2s")
        self.port = free_port()
        with (folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    find_program("prometheus"),
                    f"--config.file={folder}/prometheus.yml",
                    f"--storage.tsdb.path={folder}/data",
                    f"--web.listen-address=127.0.0.1:{self.port}",
                    "--web.enable-lifecycle",
                    "--log.level=warn",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=10)
        wait_for(self._has_scraped, 30, (folder / "log").read_text)

    def _configure(self, every):
        (self._folder / "prometheus.yml").write_text(
            yaml.safe_dump(
                {
                    "global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": "500ms"},
                    "rule_files": ["rules.yml"],
                    "scrape_configs": [
                        {"job_name": "cache_pipeline", "static_configs": [{"targets": [self._target]}]},
                    ],
                }
            )
        )

    def scrape_rarely(self):
        """Scrape rarely enough that a scrape has time to notice an unavailable store."""
        self._configure("6s")
        self._http.post("/-/reload").raise_for_status()

    def _has_scraped(self):
        assert self._process.poll() is None, (self._folder / "log").read_text()
        try:
            return self.query('up{job="cache_pipeline"} == 1')
        except httpx.TransportError:
            return False

    def query(self, expression):
        answer = self._http.get("/api/v1/query", params={"query": expression})
        if answer.status_code == 503:
            return []
        assert answer.status_code == 200, (expression, answer.text)
        return answer.json()["data"]["result"]

    def alerts(self):
        """Return the firing alerts by name, each with its labels and annotations."""
        found = self._http.get("/api/v1/alerts").json()["data"]["alerts"]
        return {each["labels"]["alertname"]: each for each in found if each["state"] == "firing"}

    def close(self):
        self._http.close()
        _end(self._process)


@contextmanager
def watched_deployment(folder: Path):
    """Run the deployment and Prometheus while the block lasts."""
    with ExitStack() as stack:
        servers = stack.enter_context(embedded_servers(folder / "servers"))
        settings = SimulatorSettings(
            job_seconds_base=0.0,
            job_seconds_per_1000_cells=0.0,
            reportdata_rate_limit=100_000,
            genesys_rate_limit=100_000,
        )
        vendor_url = stack.enter_context(running_simulator(settings))
        deployment = Deployment(folder, servers, vendor_url, stack.enter_context(running_collector()))
        stack.callback(deployment.close)
        prometheus = Prometheus(folder / "prometheus", f"127.0.0.1:{deployment.port}")
        stack.callback(prometheus.close)
        yield deployment, prometheus
