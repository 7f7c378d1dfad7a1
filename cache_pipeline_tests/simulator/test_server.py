"""Tests of running the simulator as a server."""

import signal
import socket
import subprocess
import sys
import threading

import httpx
import pytest
from pydantic import ValidationError

from cache_pipeline.simulator import SimulatorError, SimulatorSettings, create_app, running_simulator, serve
from cache_pipeline_tests.simulator.vendor import SettableClock, open_vendor


def test_health_returns_time_and_watermark() -> None:
    with open_vendor(SimulatorSettings()) as vendor:
        assert vendor.http.get("/simulator/health").json() == {
            "status": "ok",
            "now": "2024-06-12T10:00:30.000Z",
            "watermark": "2024-06-12T09:58:00.000Z",
        }


def test_port_in_use_is_a_one_line_error() -> None:
    with socket.socket() as occupied:
        occupied.bind(("127.0.0.1", 0))
        occupied.listen()
        port = occupied.getsockname()[1]
        with (
            pytest.raises(SimulatorError, match=f"127.0.0.1:{port}") as caught,
            running_simulator(SimulatorSettings(), port=port),
        ):
            pass
        with pytest.raises(SimulatorError, match=f"127.0.0.1:{port}"):
            serve(SimulatorSettings(), port)
    assert "\n" not in str(caught.value)


def _fail_inside(urls: list[str]) -> None:
    with running_simulator(SimulatorSettings()) as url:
        urls.append(url)
        httpx.get(f"{url}/simulator/truth", params={"interval": "2024-06-10T00:00:00Z/2024-06-11T00:00:00Z"})
        raise RuntimeError("raised by the test")


def test_failure_releases_port_and_thread() -> None:
    before, urls = threading.active_count(), list[str]()
    with pytest.raises(RuntimeError, match="raised by the test"):
        _fail_inside(urls)
    assert threading.active_count() == before
    with running_simulator(SimulatorSettings(), port=int(urls[0].rpartition(":")[2])) as url:
        assert url == urls[0]
        assert httpx.get(f"{url}/simulator/health").status_code == 200


def test_foreground_server_ends_cleanly_on_interrupt() -> None:
    announce = "lambda url: print(url, flush=True)"
    code = f"from cache_pipeline.simulator import *; serve(SimulatorSettings(), 0, announce={announce}); print('ended')"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert httpx.get(f"{url}/simulator/health").status_code == 200
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, out, err) == (0, "ended\n", "")


async def test_application_runs_without_a_port() -> None:
    app = create_app(SimulatorSettings(), SettableClock())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://simulator") as http:
        assert (await http.get("/simulator/health")).json()["now"] == "2024-06-12T10:00:30.000Z"
        unknown = await http.get("/elsewhere")
        assert (unknown.status_code, unknown.json()["code"]) == (404, "not.found")


@pytest.mark.parametrize(
    "wrong",
    [{"organisation_zone": "Mars/Olympus"}, {"queues": 0}, {"rate_window_seconds": 0}, {"surprise": 1}, {"seed": -1}],
)
def test_invalid_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        SimulatorSettings.model_validate(wrong)
