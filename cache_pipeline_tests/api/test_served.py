"""The API over a socket: with the Python clients, from a browser page, and against its own OpenAPI schema."""

import asyncio
import socket
from contextlib import asynccontextmanager

import httpx
import pytest
import schemathesis
import uvicorn
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from cache_pipeline.api.http_protocol import BoundedHttpProtocol
from cache_pipeline.client import ApiError, AsyncClient, Client, ClientJobFailed
from cache_pipeline.settings import ApiSettings
from cache_pipeline_tests.api.conftest import DAY
from cache_pipeline_tests.api.schema_calls import call_all
from cache_pipeline_tests.api.test_auth import create_key
from cache_pipeline_tests.programs import find_program

PAGE = """<!doctype html><meta charset="utf-8"><title>Follow a job</title><script>
async function follow(url) {
  const seen = [];
  let answer = await fetch(url);
  seen.push(answer.status);
  if (answer.status === 202) {
    const events = await fetch(answer.headers.get("Location") + "/events");
    const reader = events.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "", job;
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      text += value;
      let end;
      while ((end = text.indexOf("\\n\\n")) >= 0) {
        const data = text.slice(0, end).split("\\n").find((line) => line.startsWith("data: "));
        text = text.slice(end + 2);
        if (data) { job = JSON.parse(data.slice(6)); seen.push(job.state); }
      }
    }
    answer = await fetch(job.links.result);
    seen.push(answer.status);
  }
  return { seen, rows: (await answer.json()).rows.length };
}
</script>"""


@asynccontextmanager
async def served(app, **options):
    """Serve a started application on a loopback socket and yield its URL; `options` are uvicorn's."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        options = {"log_level": "warning", "access_log": False, "timeout_graceful_shutdown": 1, **options}
        config = uvicorn.Config(app, lifespan="off", **options)
        server = uvicorn.Server(config)
        server.install_signal_handlers = lambda: None
        serving = asyncio.create_task(server._serve(sockets=[listener]))
        try:
            while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
                await asyncio.sleep(0.01)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await serving


async def test_both_clients_follow_job_to_same_rows(open_api, monkeypatch):
    # Let every answer take longer than the server may hold a request.
    monkeypatch.setattr("cache_pipeline.client.exchange._WAIT_SECONDS", 0.0)
    async with open_api(vendor={"job_seconds_base": 0.5}) as api, served(api.app) as url:
        api.start_worker()
        states = []
        async with AsyncClient(url) as client:
            answer = await client.query("queue_hour", DAY, on_progress=lambda job: states.append(job.state))
            assert [report["name"] for report in await client.reports()] == ["queue_hour"]
        assert states[0] in ("queued", "running")
        assert states[-1] == "done"
        assert answer.complete_through.isoformat() == "2026-01-06T00:00:00+00:00"
        assert answer.provisional_from is None

        def query_synchronously():
            with Client(url) as client:
                daily = client.query("queue_hour", DAY, group_by=[], granularity="P1D")
                with pytest.raises(ApiError, match="no report"):
                    client.query("nothing", DAY)
                return client.query("queue_hour", DAY), daily

        plain, daily = await asyncio.to_thread(query_synchronously)
        assert plain.table.equals(answer.table)
        assert daily.table["offered"].to_pylist() == [sum(answer.table["offered"].to_pylist())]
        frame = plain.to_pandas()
        assert str(frame["interval_start"].dtype).startswith("datetime64")
        assert frame["offered"].sum() == daily.to_pandas()["offered"].iloc[0]


async def test_client_reports_failed_job_and_missing_key(open_api, monkeypatch):
    monkeypatch.setattr("cache_pipeline.client.exchange._WAIT_SECONDS", 0.0)
    monkeypatch.setattr("cache_pipeline.api.jobs.worker._SWEEP_SECONDS", 0.1)
    monkeypatch.setattr("cache_pipeline.api.jobs.worker._FIRST_RETRY_SECONDS", 0.1)
    async with open_api(api=ApiSettings(auth="keys")) as api, served(api.app) as url:
        await api.vendor.post("/simulator/faults", json={"fail_jobs": 100})
        api.start_worker()
        async with AsyncClient(url) as stranger:
            with pytest.raises(ApiError) as refused:
                await stranger.query("queue_hour", DAY)
            assert refused.value.status == 401
        key = (await create_key(api))["Authorization"].split()[1]
        async with AsyncClient(url, key) as client:
            with pytest.raises(ClientJobFailed) as failed:
                await client.query("queue_hour", DAY)
        assert failed.value.status == 502


@pytest.mark.timeout(120)
async def test_browser_page_follows_job_with_fetch(open_api, tmp_path):
    from playwright.async_api import async_playwright

    chromium = find_program("chromium", "chromium-browser", "google-chrome")
    cors = ApiSettings(auth="off", cors_origins=("*",))
    async with open_api(vendor={"job_seconds_base": 1.0}, api=cors) as api, served(api.app) as url:
        api.start_worker()
        async with async_playwright() as playwright:
            arguments = [
                "--no-sandbox",
                "--disable-gpu",
                # Chromium would ask the user whether the page may access this machine.
                "--disable-features=LocalNetworkAccessChecks,BlockInsecurePrivateNetworkRequests",
            ]
            browser = await playwright.chromium.launch(executable_path=chromium, args=arguments)
            try:
                page = await browser.new_page()
                origin = url.replace("127.0.0.1", "localhost") + "/page"
                # A page of another origin, so that CORS is exercised.
                await page.route(origin, lambda route: route.fulfill(body=PAGE, content_type="text/html"))
                await page.goto(origin)
                followed = await page.evaluate(
                    "async ([base, url]) => { const plain = fetch; window.fetch = (u) => plain(new URL(u, base));"
                    " return await follow(url); }",
                    [url, f"/v1/reports/queue_hour?interval={DAY}"],
                )
            finally:
                await browser.close()
    seen = followed["seen"]
    assert (seen[0], seen[-2], seen[-1]) == (202, "done", 200)
    assert "running" in seen
    assert followed["rows"] > 100


async def test_connection_survives_problem_response(open_api):
    async with (
        open_api(api=ApiSettings(auth="keys")) as api,
        served(api.app) as url,
        httpx.AsyncClient(base_url=url) as http,
    ):
        connections = set()
        for _ in range(3):
            answer = await http.get("/v1/reports")
            assert answer.status_code == 401
            connections.add(answer.extensions["network_stream"].get_extra_info("client_addr"))
        assert len(connections) == 1


CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
)


# The API runs in another thread, and what it draws there by chance is none of the strategies'.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")
@pytest.mark.timeout(200)
async def test_api_conforms_to_its_openapi_schema(open_api):
    async with open_api() as api, served(api.app, http=BoundedHttpProtocol) as url:
        missed = await api.http.get(f"/v1/reports/queue_hour?interval={DAY}")
        assert missed.status_code == 202
        document, called = (await api.http.get("/openapi.json")).json(), list[str]()

        def call(case: schemathesis.Case) -> None:
            called.append(case.path)
            case.validate_response(case.call(base_url=url, timeout=20), checks=list(CHECKS))

        await asyncio.to_thread(lambda: call_all(document, call, max_examples=10))
        assert len(called) > 60
