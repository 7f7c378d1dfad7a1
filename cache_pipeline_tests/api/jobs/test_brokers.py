"""The job queue on every broker, and jobs that survive kill -9 of a worker and of the broker."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer
from pydantic import SecretStr

from cache_pipeline.api.jobs.queue import brokers, open_queue
from cache_pipeline.errors import QueueUnavailable, SettingsError
from cache_pipeline.settings import JobSettings, Settings
from cache_pipeline_tests.api.conftest import DAY
from cache_pipeline_tests.api.jobs.rabbitmq import running_rabbitmq

pytestmark = [pytest.mark.timeout(400), pytest.mark.system]
URL = f"/v1/reports/queue_hour?interval={DAY}"


@pytest.fixture(scope="module")
def rabbitmq(tmp_path_factory):
    with running_rabbitmq(tmp_path_factory.mktemp("broker") / "rabbitmq") as node:
        yield node


@pytest.fixture
def sqs_url(monkeypatch):
    for name, value in (("ACCESS_KEY_ID", "test"), ("SECRET_ACCESS_KEY", "test"), ("DEFAULT_REGION", "eu-west-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        sqs = boto3.client("sqs", endpoint_url=endpoint, region_name="eu-west-1")
        sqs.create_queue(QueueName="jobs")
        sqs.close()
        yield f"sqs://eu-west-1/jobs?endpoint={endpoint}"
    finally:
        server.stop()


@pytest.fixture(params=["redis", "rabbitmq", "sqs"])
def queue_url(request):
    if request.param == "redis":
        return request.getfixturevalue("redis_database")
    return request.getfixturevalue("sqs_url") if request.param == "sqs" else request.getfixturevalue("rabbitmq").url


def queue_settings(url):
    return Settings(jobs=JobSettings(queue_url=SecretStr(url)))


@asynccontextmanager
async def consume(queue):
    deliveries = queue.consume()
    try:
        yield deliveries
    finally:
        await deliveries.aclose()


async def next_delivery(deliveries, seconds=20):
    async with asyncio.timeout(seconds):
        return await anext(deliveries)


async def test_only_unacknowledged_message_is_redelivered(queue_url, monkeypatch):
    monkeypatch.setattr(brokers, "_VISIBILITY_SECONDS", 2)
    async with open_queue(queue_settings(queue_url)) as queue:
        await queue.health()
        sent = {f"job-{number}" for number in range(3)}
        for job in sent:
            await queue.publish(job)
        async with consume(queue) as deliveries:
            first = [await next_delivery(deliveries) for _ in sent]
            assert {delivery.body.decode() for delivery in first} == sent
            for delivery in first[:2]:
                await delivery.ack()
        async with consume(queue) as deliveries:
            redelivered = await next_delivery(deliveries)
            assert redelivered.body == first[2].body
            await redelivered.ack()


async def test_message_stays_with_live_worker(queue_url, monkeypatch):
    monkeypatch.setattr(brokers, "_VISIBILITY_SECONDS", 2)
    async with open_queue(queue_settings(queue_url)) as queue:
        await queue.publish("job")
        async with consume(queue) as deliveries, consume(queue) as others:
            delivery = await next_delivery(deliveries)
            # Both consumers keep waiting for messages, as workers do.
            more = asyncio.create_task(anext(deliveries))
            other = asyncio.create_task(anext(others))
            done, waiting = await asyncio.wait([more, other], timeout=5)
            assert not done
            await delivery.ack()
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)


@pytest.mark.parametrize("url", ["amqp://guest:hunter2@127.0.0.1:1", "redis://:hunter2@127.0.0.1:1/0"])
async def test_unavailable_broker_error_hides_password(url):
    async with open_queue(queue_settings(url)) as queue:
        for use in (queue.health(), queue.publish("job"), queue.publish("job")):
            with pytest.raises(QueueUnavailable) as error:
                await use
            assert "hunter2" not in str(error.value)
            assert "CACHE_PIPELINE_JOBS__QUEUE_URL" in str(error.value)


@pytest.mark.parametrize("url", ["kafka://127.0.0.1", "sqs://eu-west-1"])
async def test_unknown_queue_url_is_refused_naming_setting(url):
    with pytest.raises(SettingsError, match="CACHE_PIPELINE_JOBS__QUEUE_URL"):
        async with open_queue(queue_settings(url)):
            pass


async def test_job_is_answered_through_sqs(open_api, sqs_url):
    async with open_api(jobs=JobSettings(queue_url=SecretStr(sqs_url), lease_seconds=2)) as api:
        api.start_worker()
        assert (await api.http.get(URL, headers={"Prefer": "wait=30"})).status_code == 200


CONCURRENCY = 25
REPORT_YAML = """\
name: queue_hour
description: Offered by queue, by hour
platform: reportdata
query_type: queue-performance
granularity: PT1H
time_zone: UTC
group_by: [queueId]
metrics: [offered]
partition: day
start: 2026-01-01
fetch:
  max_query_interval: PT1H
  expected_groups: 8
"""


class WorkerProcess:
    """`cache-pipeline worker` in its own process."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        (folder / "reports").mkdir(exist_ok=True)
        (folder / "reports" / "queue_hour.yaml").write_text(REPORT_YAML)
        vendor = settings.accounts["reportdata"]["main"]
        account = {
            "base_url": str(vendor.base_url),
            "login_url": str(vendor.login_url),
            "clients": [{"client_id": "demo-client", "client_secret": "demo-secret"}],
            "rate_limit": 100_000,
        }
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CACHE_PIPELINE_")}
        environment |= {
            "CACHE_PIPELINE_POSTGRES_URL": settings.required_postgres_url(),
            "CACHE_PIPELINE_REDIS_URL": settings.required_redis_url(),
            "CACHE_PIPELINE_ACCOUNTS__REPORTDATA__MAIN": json.dumps(account),
            "CACHE_PIPELINE_JOBS__QUEUE_URL": settings.jobs.queue_url.get_secret_value(),
            "CACHE_PIPELINE_JOBS__LEASE_SECONDS": "3",
            "CACHE_PIPELINE_JOBS__CONCURRENCY": str(CONCURRENCY),
        }
        self.log = folder / f"worker-{id(self)}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", "from cache_pipeline.cli.main import main; main()", "worker"],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            assert self.process.wait(40) == 0, self.log.read_text()


async def test_killed_worker_and_broker_lose_and_repeat_nothing(open_api, rabbitmq, tmp_path):
    count, first = 200, datetime(2025, 12, 20, tzinfo=UTC)
    hours = [(first + timedelta(hours=n), first + timedelta(hours=n + 1)) for n in range(count)]
    jobs = JobSettings(queue_url=SecretStr(rabbitmq.url), lease_seconds=3)
    async with open_api(vendor={"job_seconds_base": 6.0}, jobs=jobs) as api:

        async def done():
            return (await api.query_service.jobs.counts())["done"]

        workers = [WorkerProcess(tmp_path, api.settings) for _ in range(2)]
        try:
            locations = []
            for start, end in hours:
                url = f"/v1/reports/queue_hour?interval={start:%Y-%m-%dT%H:%MZ}/{end:%Y-%m-%dT%H:%MZ}"
                answer = await api.http.get(url)
                assert answer.status_code == 202, answer.text
                locations.append(answer.headers["Location"])
            # Wait until both workers have submitted as many jobs as they run at once.
            await until(lambda: is_at_least(api.submits, 2 * CONCURRENCY), workers)
            await asyncio.sleep(0.5)
            workers[0].kill()
            await until(lambda: is_at_least(done, 20), workers[1:])
            rabbitmq.kill()
            workers.append(WorkerProcess(tmp_path, api.settings))
            await asyncio.to_thread(rabbitmq.start)
            jobs = [await api.wait_until_finished(location, 200) for location in locations]
            assert [job["state"] for job in jobs] == ["done"] * count, [j["problem"] for j in jobs if j["problem"]]
            assert await api.submits() == count
            for worker in workers[1:]:
                await asyncio.to_thread(worker.stop)
        finally:
            for worker in workers:
                if worker.process.poll() is None:
                    worker.kill()


async def is_at_least(number, least):
    return await number() >= least


async def until(holds, workers, seconds=150):
    async with asyncio.timeout(seconds):
        while not await holds():
            for worker in workers:
                assert worker.process.poll() is None, worker.log.read_text()
            await asyncio.sleep(0.1)
