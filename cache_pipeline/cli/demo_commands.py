"""The commands ``cache-pipeline demo`` and ``cache-pipeline dev``."""

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
from rich.console import Console

from cache_pipeline.bootstrap.reports import load_all_reports
from cache_pipeline.cli.child_process import start_bound_child
from cache_pipeline.cli.demo import print_report, run_demo, write_report
from cache_pipeline.cli.demo_environment import DemoEnvironment, DemoRequest, run_demo_environment
from cache_pipeline.cli.demo_page import serving_page, write_page
from cache_pipeline.cli.demo_story import print_addresses, print_story
from cache_pipeline.cli.serve import run_local_api
from cache_pipeline.cli.signals import terminated_like_interrupted
from cache_pipeline.errors import CommandError
from cache_pipeline.upstream.http import httpx

_DAY = click.DateTime(["%Y-%m-%d"])
_START_SECONDS = 120.0


def _demo_request(
    arrivals: Path | None, arrivals_zone: str, first: datetime | None, end: datetime | None
) -> DemoRequest:
    return DemoRequest(arrivals, arrivals_zone, first.date() if first else None, end.date() if end else None)


_DEMO_OPTIONS = (
    click.option(
        "--arrivals",
        type=click.Path(path_type=Path),
        help="Replay the volumes of a CSV file with the columns start and calls.",
    ),
    click.option("--arrivals-zone", default="UTC", show_default=True, help="Time zone of that file."),
    click.option(
        "--from",
        "first",
        type=_DAY,
        help="First day (default: four weeks before TO, or one for reports with partitions of an hour).",
    ),
    click.option("--to", "end", type=_DAY, help="Day after the last day (default: today)."),
)


def _with_demo_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a demo."""
    for option in reversed(_DEMO_OPTIONS):
        command = option(command)
    return command


@click.command()
@_with_demo_options
def demo(arrivals: Path | None, arrivals_zone: str, first: datetime | None, end: datetime | None) -> None:
    """Backfill the reports on embedded servers and a simulated vendor, and compare the tiers."""
    request, console = _demo_request(arrivals, arrivals_zone, first, end), Console()
    with terminated_like_interrupted(), run_demo_environment(request, datetime.now(UTC)) as demo:
        succeeded = _run_demo(demo, console)
    command = "make dev" if (demo.project / "Makefile").exists() else "cache-pipeline dev"
    console.print(
        f"Next: [bold]{command}[/] for the same with the Dagster UI, the HTTP API and its pages; edit reports/ to change what is fetched",
        highlight=False,
    )
    if not succeeded:
        sys.exit(1)


def _run_demo(demo: DemoEnvironment, console: Console) -> bool:
    _announce_isolation(demo, console)
    report = run_demo(demo, console)
    print_report(report, console)
    path = write_report(report, demo.settings.data_dir.parent)
    console.print(f"Written to {path}; published Parquet in {demo.settings.data_dir / 'edge'}", highlight=False)
    page = write_page(demo.settings)
    print_story(demo, console)
    if page:
        link = page.as_uri()
        console.print(
            f"The executives' page as one file, to open or send: [bold link={link}]{link}[/]",
            highlight=False,
            soft_wrap=True,
        )
    return report.succeeded


def _announce_isolation(demo: DemoEnvironment, console: Console) -> None:
    console.print(
        f"Servers, stores and accounts of its own, in {demo.settings.data_dir}; the vendor is simulated",
        highlight=False,
        soft_wrap=True,
    )
    if demo.ignored:
        console.print(
            f"Not used, though the environment or .env sets them: {', '.join(demo.ignored)}",
            highlight=False,
            soft_wrap=True,
        )


@click.command()
@click.option("--port", default=3000, show_default=True, help="Port of the Dagster UI on 127.0.0.1.")
@click.option("--api-port", default=8080, show_default=True, help="Port of the HTTP API on 127.0.0.1.")
@_with_demo_options
def dev(
    port: int,
    api_port: int,
    arrivals: Path | None,
    arrivals_zone: str,
    first: datetime | None,
    end: datetime | None,
) -> None:
    """Run the demo, then serve the Dagster UI and the HTTP API until Ctrl-C.

    The sensors that keep the reports current are running.
    """
    request, console = _demo_request(arrivals, arrivals_zone, first, end), Console()
    for each in (port, api_port):
        _free_port(each)
    with terminated_like_interrupted(), run_demo_environment(request, datetime.now(UTC)) as demo:
        _run_demo(demo, console)
        console.print("Starting the Dagster UI, the HTTP API and a worker, which takes about twenty seconds …")
        # `dg dev`, which Dagster recommends, makes its own workspace and ignores workspace.yaml.
        quiet = ["-W", "ignore:Function `dev_command` is superseded"]
        dagster = [
            *quiet,
            "-m",
            "dagster",
            "dev",
            "-w",
            str(demo.project / "workspace.yaml"),
            "-h",
            "127.0.0.1",
            "-p",
            str(port),
            *("--log-level", "warning", "--code-server-log-level", "warning"),
        ]
        command = [sys.executable, *dagster]
        # The addresses would soon be gone above the events of the first runs.
        log = demo.settings.data_dir / "dev.log"
        log.unlink(missing_ok=True)
        with (
            serving_page(demo.settings) as page,
            run_local_api(demo.environment, demo.folder, api_port, log) as api,
            start_bound_child(
                command, {**demo.environment, "CACHE_PIPELINE_SENSORS": "running"}, folder=demo.folder, log=log
            ) as process,
        ):
            dagster_ui = f"http://127.0.0.1:{port}"
            _wait_until_up(process, [f"{dagster_ui}/server_info", f"{api}/readyz"])
            if process.poll() is None:
                print_addresses(_addresses(demo, dagster_ui, api, page), log, console)
            code = process.wait()
    if code:
        raise CommandError(f"dagster dev ended with code {code}: see {log}")


def _wait_until_up(process: "subprocess.Popen[str]", urls: Sequence[str]) -> None:
    """Wait until all URLs answer, but no longer than the process runs, and for two minutes at most."""
    deadline, missing = time.monotonic() + _START_SECONDS, list(urls)
    while missing and process.poll() is None and time.monotonic() < deadline:
        try:
            httpx.get(missing[0], timeout=5).raise_for_status()
        except httpx.HTTPError:
            time.sleep(0.5)
        else:
            missing.pop(0)


def _addresses(demo: DemoEnvironment, dagster_ui: str, api: str, page: str | None) -> list[tuple[str, str, str]]:
    """Return what there is to see, each with its address and one line about it."""
    reports, live_reports = load_all_reports(demo.settings)
    found = [("Dagster", dagster_ui, "assets, partitions, checks and runs; its sensors fetch what becomes due")]
    if live_reports:
        found.append(("Live", f"{api}/live", "who waits now, by queue, fresh to a second"))
    if page:
        found.append(("Executives", page, "weeks compared, from published files alone"))
    found += [
        ("Operations", f"{api}/operations", "reports by day, quota, jobs, and what today's requests saved"),
        ("API", f"{api}/docs", "every request, to try; no key is needed on this machine"),
    ]
    if report := reports.get("queue_day") or next(iter(reports.values()), None):
        _, end = demo.days(report)
        query = f"{api}/v1/reports/{report.name}?interval={end - timedelta(days=1)}/{end}&names=true"
        found.append(("A query", query, "yesterday with names; add -H 'Accept: text/csv' with curl for CSV"))
    found.append(
        ("Vendor", f"{demo.simulator_url}/simulator", "the simulated vendor: what it was asked, and what it refuses")
    )
    return found


def _free_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            raise CommandError(
                f"port {port} cannot be used ({error}); free it, or choose another with --port and --api-port"
            ) from error
