"""Tests that a server without keys can be used from this machine, and not by the other pages of its browser."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from cache_pipeline.api.local_only import LocalOnly

REPOSITORY = Path(__file__).parents[2]


async def answer(_scope, _receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"figures"})


async def status(headers, allowed_origins=()):
    transport = httpx.ASGITransport(LocalOnly(answer, allowed_origins))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8080") as client:
        return (await client.get("/", headers=headers)).status_code


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Host": "localhost:8080"},
        {"Host": "[::1]:8080"},
        {"Origin": "http://127.0.0.1:8080"},
        # A link on another page, which that page cannot read.
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
        {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"},
    ],
)
async def test_own_requests_are_served(headers):
    assert await status(headers) == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "attacker.example"},
        {"Host": "127.0.0.1.attacker.example:8080"},
        {"Host": "[::1:8080"},
        {"Host": ""},
        {"Origin": "https://attacker.example"},
        {"Origin": "null"},
        # Another program's page on this machine.
        {"Origin": "http://127.0.0.1:3000"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
    ],
)
async def test_other_pages_are_refused(headers):
    assert await status(headers) == 403


async def test_allowed_origin_is_served():
    wall = "https://wall.example"
    assert await status({"Origin": wall}, [wall]) == 200
    assert await status({"Origin": wall}, ["*"]) == 200
    assert await status({"Host": "wall.example", "Origin": wall}, ["*"]) == 403


@pytest.mark.timeout(120)
def test_api_without_keys_is_local_only(postgres_database, redis_database, tmp_path):
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("CACHE_PIPELINE_")}
    (tmp_path / "reports").mkdir()
    shutil.copy(REPOSITORY / "reports" / "queue_day.yaml", tmp_path / "reports")
    process = subprocess.Popen(
        [sys.executable, "-c", "from cache_pipeline.cli.main import main; main()", "api", "--port", "0"],
        cwd=tmp_path,
        env={
            **inherited,
            "PYTHONPATH": str(REPOSITORY),
            "CACHE_PIPELINE_POSTGRES_URL": postgres_database,
            "CACHE_PIPELINE_REDIS_URL": redis_database,
            "CACHE_PIPELINE_API__AUTH": "off",
        },
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        lines = []
        while not (found := re.search(r"http://127\.0\.0\.1:\d+", "".join(lines))):
            lines.append(process.stderr.readline())
            assert lines[-1], lines
        url = found[0]
        own = httpx.get(f"{url}/v1/reports")
        assert own.status_code == 200
        assert "access-control-allow-origin" not in own.headers
        for headers in ({"Host": "attacker.example"}, {"Origin": "https://attacker.example"}):
            refused = httpx.get(f"{url}/v1/reports", headers=headers)
            assert refused.status_code == 403
            assert "access-control-allow-origin" not in refused.headers
            assert "127.0.0.1" in refused.text or "CORS_ORIGINS" in refused.text
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
