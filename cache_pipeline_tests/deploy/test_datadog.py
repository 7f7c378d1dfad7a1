"""Datadog's own OpenMetrics check reads /metrics with the shipped configuration."""

import asyncio
import json
import os
import subprocess
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from cache_pipeline_tests.api.conftest import DAY, OpenApi, open_api
from cache_pipeline_tests.deploy.rules import REPOSITORY

__all__ = ["open_api"]

pytestmark = pytest.mark.serial

#: How the check calls what it sends for each type of metric.
_SENT_AS = {"counter": ".count", "gauge": "", "histogram": ".count"}


def datadog_python() -> str:
    """Return the interpreter that has Datadog's package; without one the test is skipped, and fails in CI."""
    python = os.environ.get("CACHE_PIPELINE_TEST_DATADOG_PYTHON", "")
    if Path(python).is_file():
        return python
    message = "CACHE_PIPELINE_TEST_DATADOG_PYTHON names no interpreter with datadog-checks-base: .ci/run shows how"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


@contextmanager
def serving(answer: httpx.Response) -> Generator[str]:
    """Serve an answer of the API over HTTP, and yield its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", answer.headers["Content-Type"])
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        def log_message(self, *_: Any) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/metrics"
        finally:
            server.shutdown()
            thread.join()


async def test_check_sends_every_metric(open_api: OpenApi):
    python = datadog_python()
    async with open_api() as api:
        api.start_worker()
        accepted = await api.http.get(f"/v1/reports/queue_hour?interval={DAY}")
        await api.wait_until_finished(accepted.headers["Location"])
        answer = await api.http.get("/metrics")
    with serving(answer) as url:
        program = Path(__file__).with_name("datadog_check.py")
        configuration = REPOSITORY / "deploy" / "datadog" / "openmetrics.yaml"
        checked = await asyncio.to_thread(
            subprocess.run,
            [python, program, configuration, url],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert checked.returncode == 0, checked.stderr
    sent = json.loads(checked.stdout)
    assert sent["up"] == [0]
    families = [each for each in text_string_to_metric_families(answer.text) if each.samples]
    expected = {
        f"{each.name.replace('cache_pipeline_', 'cache_pipeline.', 1)}{_SENT_AS[each.type]}" for each in families
    }
    assert expected <= sent["metrics"].keys()
    values = {each["tags"][-1]: each["value"] for each in sent["metrics"]["cache_pipeline.dependency_up"]}
    assert set(values.values()) == {1.0}
