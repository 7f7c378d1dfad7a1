"""Tests of the status page, which shows the simulator's state and no secret."""

import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright
from pydantic import SecretStr

from cache_pipeline.simulator import SimulatorSettings
from cache_pipeline.simulator.server import running_simulator
from cache_pipeline_tests.programs import find_program
from cache_pipeline_tests.simulator.vendor import AGGREGATES, CLIENT, DAY, SECRET, aggregate_body, open_vendor

SETTINGS = SimulatorSettings(
    clients={CLIENT: SecretStr(SECRET), "<b>bold</b>": SecretStr("hush")},
    client_permissions={CLIENT: frozenset({"analytics:conversationAggregate:view"})},
    client_divisions={CLIENT: frozenset({1})},
    conversations_per_working_day=100,
)


def test_page_shows_clients_jobs_quota_calls_and_faults() -> None:
    with open_vendor(SETTINGS) as vendor:
        job = vendor.post(f"{AGGREGATES}/jobs", aggregate_body(interval=DAY)).json()["jobId"]
        vendor.http.post("/simulator/faults", json={"fail_jobs": 3})
        answer = vendor.http.get("/simulator")
        state = vendor.http.get("/simulator", headers={"Accept": "application/json"}).json()
        token = vendor.headers["Authorization"].removeprefix("Bearer ")
    page = answer.text
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    for words in (
        job,
        f"{AGGREGATES}/jobs",
        "QUEUED",
        "299 of 300",
        "fail_jobs",
        "analytics:conversationAggregate:view",
    ):
        assert words in page
    assert "<b>bold</b>" not in page
    assert "&lt;b&gt;bold" in page
    for secret in (SECRET, "hush", token):
        assert secret not in page
    assert state["jobs"][0]["Job"] == job
    assert state["faults"] == [{"Fault": "fail_jobs", "Set to": 3}]
    assert state["clients"][0]["Divisions"] == "1"


def test_idle_simulator_shows_empty_tables() -> None:
    with open_vendor(SETTINGS) as vendor:
        assert vendor.http.get("/simulator").text.count("<p>None.</p>") == 2


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("width", "scheme"), [(320, "dark"), (1280, "light")])
def test_page_is_accessible_fits_and_stays_current(width: int, scheme: str) -> None:
    chromium = find_program("chromium", "chromium-browser", "google-chrome")
    with running_simulator(SETTINGS) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        messages = []
        page.on("console", lambda message: messages.append(message.text))
        page.clock.install()
        page.goto(f"{url}/simulator")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        page.request.post(f"{url}/simulator/faults", data={"fail_jobs": 3})
        page.clock.run_for(6_000)
        page.get_by_text(re.compile("fail_jobs")).wait_for(timeout=10_000)
        assert messages == []
        browser.close()
