"""Every snippet of docs/api.md runs unchanged against a running API."""

import asyncio
import os
import re
import shlex
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import click
import httpx
import pyarrow.parquet as pq
import pytest
import yaml

from cache_pipeline.settings import ApiSettings
from cache_pipeline_tests.api.conftest import REPORT
from cache_pipeline_tests.api.test_auth import create_key
from cache_pipeline_tests.api.test_served import served
from cache_pipeline_tests.programs import find_program

PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
QUEUE_DAY = REPORT.model_copy(update={"name": "queue_day", "granularity": "P1D"})


def snippets(language, containing=""):
    """Return the snippets of the page in a language."""
    found = [
        text for kind, text in re.findall(r"^```(\w*)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL) if kind == language
    ]
    chosen = [text for text in found if containing in text]
    assert chosen, f"docs/api.md shows no {language} with {containing!r}"
    return chosen


@pytest.fixture
def documented(open_api):
    """Return a context with the API of the page, and a function that adapts a snippet to it."""

    @asynccontextmanager
    async def opened():
        keys = ApiSettings(auth="keys", cors_origins=("*",))
        async with open_api(QUEUE_DAY, api=keys) as api, served(api.app) as url:
            api.start_worker()
            key = (await create_key(api))["Authorization"].split()[1]
            # The page's day is in the future for the tests' vendor.
            changes = {
                "http://127.0.0.1:8080": url,
                "2026-11-16": "2026-01-05",
                "2026-11-17": "2026-01-06",
                "cp_YOUR_KEY": key,
            }

            def adapt(text):
                for old, new in changes.items():
                    text = text.replace(old, new)
                return text

            yield adapt, key

    return opened


async def output_of(*command, folder, key=""):
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        env={**os.environ, "KEY": key},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, errors.decode()
    return out.decode()


async def test_curl_commands_run(documented, tmp_path):
    find_program("curl")
    async with documented() as (adapt, key):
        (script,) = snippets("sh", "curl")
        commands = [line for line in adapt(script).replace("\\\n", " ").splitlines() if line.strip()]
        assert len(commands) == 4
        outputs = [
            await output_of("sh", "-c", f"{line} --fail-with-body -sS", folder=tmp_path, key=key) for line in commands
        ]
        assert outputs[0].startswith('{"report":"queue_day"')
        header, total = outputs[1].splitlines()
        assert header == "interval_start,interval_end,offered"
        assert outputs[2].startswith('{"report":"queue_day"')
        table = pq.read_table(tmp_path / "queue_day.parquet")
        assert sum(table["offered"].to_pylist()) == int(total.split(",")[-1])


async def test_python_programs_run(documented, tmp_path):
    async with documented() as (adapt, _):
        client, plain = snippets("python")
        printed = await output_of(sys.executable, "-c", adapt(client), folder=tmp_path)
        assert "2026-01-06 00:00:00+00:00" in printed
        assert "interval_start" in printed
        assert "interval_start" in await output_of(sys.executable, "-c", adapt(plain), folder=tmp_path)


@asynccontextmanager
async def browser_page():
    """A page of a real browser."""
    from playwright.async_api import async_playwright

    chromium = find_program("chromium", "chromium-browser", "google-chrome")
    arguments = [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-features=LocalNetworkAccessChecks,BlockInsecurePrivateNetworkRequests",
    ]
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=arguments)
        try:
            yield await browser.new_page()
        finally:
            await browser.close()


@pytest.mark.timeout(120)
async def test_javascript_function_runs_in_browser(documented):
    async with documented() as (adapt, key), browser_page() as page:
        base = adapt("http://127.0.0.1:8080")
        await page.goto(f"{base}/healthz")
        (function,) = snippets("js", "async function ask")
        path = adapt("/v1/reports/queue_day?interval=2026-11-16/2026-11-17")
        answer = await page.evaluate(
            f"async ([base, path, key]) => {{ {function}; return await ask(base, path, key); }}", [base, path, key]
        )
    assert answer["report"] == "queue_day"
    assert len(answer["rows"]) == 8


@pytest.mark.timeout(120)
async def test_interactive_documentation_needs_no_other_host(documented):
    async with documented() as (adapt, _), browser_page() as page:
        base, hosts, errors = adapt("http://127.0.0.1:8080"), set(), []
        page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
        page.on("pageerror", lambda error: errors.append(str(error)))
        # Among them what the content security policy refuses.
        page.on("console", lambda message: errors.append(message.text))
        await page.goto(f"{base}/docs")
        await page.get_by_text("/v1/reports/{report}", exact=True).first.wait_for(timeout=20_000)
        assert (hosts, errors) == ({urlsplit(base).netloc}, [])


async def test_power_bi_and_grafana_requests_are_answered(documented):
    async with documented() as (adapt, _), httpx.AsyncClient(timeout=30) as http:
        (query,) = snippets("powerquery")
        text = adapt(query)
        base, path, interval = (
            re.search(pattern, text)[1]
            for pattern in (r'Contents\("(.*?)"', r'RelativePath = "(.*?)"', r'interval = "(.*?)"')
        )
        headers = dict(re.findall(r'(\w+) = "([^"]*)"', re.search(r"Headers = \[(.*?)\]", text)[1]))
        answer = await http.get(f"{base}/{path}", params={"interval": interval}, headers=headers)
        assert answer.status_code == 200, answer.text
        assert answer.text.startswith("interval_start,interval_end,queue_id,offered")

        (source,) = snippets("yaml", "__from")
        query = yaml.safe_load(adapt(source))
        # "Last 6 hours" and "last 24 hours" are rarely whole days.
        for start, end in (("06:19:09.254", "12:19:09.254"), ("00:00:00.000", "23:59:59.999")):
            url = query["url"].replace("${__from:date:iso}", f"2026-01-05T{start}Z")
            url = url.replace("${__to:date:iso}", f"2026-01-05T{end}Z")
            assert (await http.get(url, headers=query["headers"])).text == answer.text


def test_documented_commands_exist():
    from cache_pipeline.cli.main import cli

    (commands,) = snippets("sh", "cache-pipeline api")
    for line in commands.splitlines():
        words = shlex.split(line, comments=True)[1:]
        command, name = cli, words[0]
        while isinstance(command, click.Group):
            command, words = command.get_command(click.Context(command), name), words[1:]
            assert command is not None, line
            name = words[0] if words else ""
        command.make_context(name, list(words))
