"""API and worker processes that start before PostgreSQL."""

import asyncio
import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from urllib.parse import urlsplit, urlunsplit

import httpx
import pytest

from cache_pipeline_tests.chaos.proxy import TcpProxy
from cache_pipeline_tests.storage.redis.valkey_servers import free_port

REPORT = """name: queue_hour
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
  expected_groups: 8
"""


@contextmanager
def start_process(folder, postgres_url, redis_url, *command):
    (folder / "reports").mkdir(exist_ok=True)
    (folder / "reports" / "queue_hour.yaml").write_text(REPORT)
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("CACHE_PIPELINE_", "DAGSTER"))
    }
    environment = inherited | {
        "CACHE_PIPELINE_POSTGRES_URL": postgres_url,
        "CACHE_PIPELINE_REDIS_URL": redis_url,
        "CACHE_PIPELINE_API__AUTH": "off",
    }
    program = [sys.executable, "-c", "from cache_pipeline.cli.main import main; main()", *command]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            program, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def url_through(url, port):
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{parts.username}:{parts.password}@127.0.0.1:{port}"))


def wait_until(check, folder, seconds=60):
    deadline = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < deadline, (folder / "log").read_text()
        time.sleep(0.1)
    return found


@contextmanager
def reachable(proxy):
    """Put PostgreSQL behind a proxy, whose event loop runs in its own thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    asyncio.run_coroutine_threadsafe(proxy.start(), loop).result(10)
    try:
        yield loop
    finally:
        asyncio.run_coroutine_threadsafe(proxy.close(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def test_api_and_worker_wait_for_late_database(tmp_path, postgres_database, redis_database):
    proxy = TcpProxy("postgres", urlsplit(postgres_database).port)
    port = free_port()
    (tmp_path / "worker").mkdir()
    (tmp_path / "api").mkdir()
    with reachable(proxy) as loop:
        loop.call_soon_threadsafe(proxy.cut)
        url = url_through(postgres_database, proxy.port)
        with (
            start_process(tmp_path / "api", url, redis_database, "api", "--port", str(port)),
            start_process(tmp_path / "worker", url, redis_database, "worker") as worker,
            httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as http,
        ):

            def status(path):
                try:
                    return http.get(path).status_code
                except httpx.TransportError:
                    return None

            wait_until(lambda: status("/healthz") == 200, tmp_path / "api")
            waiting = http.get("/readyz")
            assert (waiting.status_code, waiting.json()["dependencies"][0]["name"]) == (503, "postgresql")
            refused = http.get("/v1/reports/queue_hour")
            assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
            assert refused.headers["Content-Type"] == "application/problem+json"
            wait_until(
                lambda: (
                    "attempt 2: PostgreSQL at 127.0.0.1 cannot be reached" in (tmp_path / "worker" / "log").read_text()
                ),
                tmp_path / "worker",
            )
            assert worker.poll() is None
            loop.call_soon_threadsafe(proxy.restore)
            wait_until(lambda: status("/readyz") == 200, tmp_path / "api")
            wait_until(lambda: "is ready" in (tmp_path / "worker" / "log").read_text(), tmp_path / "worker")
    for name in ("api", "worker"):
        log = (tmp_path / name / "log").read_text()
        assert "PostgreSQL can be reached now" in log
        assert "Traceback" not in log


@pytest.mark.parametrize("command", [("api", "--port", "0"), ("worker",)])
def test_wrong_password_ends_startup_with_one_line(tmp_path, postgres_database, redis_database, command):
    parts = urlsplit(postgres_database)
    wrong = urlunsplit(parts._replace(netloc=f"{parts.username}:planted-secret@{parts.hostname}:{parts.port}"))
    with start_process(tmp_path, wrong, redis_database, *command) as process:
        assert process.wait(60) == 2
    log = (tmp_path / "log").read_text()
    assert log.count("\n") == 1
    assert "PostgreSQL refuses CACHE_PIPELINE_POSTGRES_URL: user or password is wrong" in log
    assert "planted-secret" not in log
