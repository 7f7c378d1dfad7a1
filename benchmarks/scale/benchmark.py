"""`scale`: cost of a report among 1 to 1,000, and of a partition among 100 to 100,000.

Reports: a new process loads each number of declarations, with an empty PostgreSQL and Valkey, as Dagster's code server does; then
every sensor ticks there. Beside it, a bare Dagster project with as many assets, checks, jobs, schedules and sensors is loaded. Partitions: one hourly report, of which history covers every second hour. The curves are
also drawn into ``benchmarks/results/scale.svg``.

Not measured: the Dagster UI with a thousand reports, and its daemon's own loop over a thousand sensors.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from benchmarks.result import BenchmarkError, ProgressCallback, Result, Row, Target
from benchmarks.scale import partitions, reports
from benchmarks.scale.curve import Chart, write_svg
from cache_pipeline.embedded import EmbeddedServerError, EmbeddedServers, embedded_servers
from cache_pipeline.storage.postgres.history import open_history
from cache_pipeline.storage.postgres.migrate import migrate

_REPORTS = (1, 10, 100, 1000)
_PARTITIONS = (100, 1000, 10_000, 100_000)
_ROOT = Path(__file__).parents[2]
_TIMEOUT_SECONDS = 900
_LOAD_SECONDS, _TICK_SECONDS, _ALL_STALE_SECONDS = 10.0, 1.0, 10.0
_MAX_LOAD_RATIO = 1.3
_BARE = "bare Dagster project"
_DAGSTER = {
    "storage": {"postgres": {"postgres_url": {"env": "CACHE_PIPELINE_POSTGRES_URL"}}},
    "telemetry": {"enabled": False},
}
Curves = Mapping[str, Sequence[tuple[float, float]]]


def measure(progress: ProgressCallback) -> Result:
    """Run the benchmark.

    Raises:
        BenchmarkError: A process failed to load the reports.
    """
    try:
        of_reports = {number: _measure_reports(number, progress) for number in _REPORTS}
        bare = _measure_bare(_REPORTS[-1], progress)
        of_partitions = _measure_partitions(progress)
    except EmbeddedServerError as error:
        raise BenchmarkError(str(error)) from error
    by_reports, by_partitions = _curves(of_reports), _curves(of_partitions)
    write_svg(
        [
            Chart("Loading the code location", "reports", {"load": by_reports[reports.LOAD]}, _LOAD_SECONDS),
            Chart(
                "One tick of each sensor over all reports",
                "reports",
                {name: by_reports[name] for name in reports.SENSORS},
                _TICK_SECONDS,
            ),
            Chart("One report, every second hour stored", "partitions", by_partitions),
        ],
        Path(__file__).parents[1] / "results" / "scale.svg",
    )
    return Result("scale", (*_report_rows(of_reports, bare), *_partition_rows(of_partitions)))


def _report_rows(found: Mapping[int, Mapping[str, float]], bare: float) -> list[Row]:
    few, many = _REPORTS[-2], _REPORTS[-1]
    rows = [
        Row(
            f"{reports.LOAD_CPU} the code location, {many:,} reports",
            found[many][reports.LOAD_CPU],
            "s",
            peers={_BARE: bare},
            target=Target("ratio", "<=", _MAX_LOAD_RATIO),
        ),
        Row(f"loading the code location, {many:,} reports", found[many][reports.LOAD], "s"),
    ]
    limits = {
        **dict.fromkeys((*reports.SENSORS, reports.OPEN, reports.SLOWEST), _TICK_SECONDS),
        reports.STALE: _ALL_STALE_SECONDS,
    }
    for name, limit in limits.items():
        what = f"one tick of {name}" if name in (*reports.SENSORS, reports.OPEN) else name
        target = Target("ours", "<=", limit)
        rows.append(Row(f"{what}, {many:,} reports", found[many][name], "s", target=target))
    growth = found[many][reports.LOAD] / many / (found[few][reports.LOAD] / few)
    rows.append(
        Row(f"load time per report with {many:,} ÷ with {few}", growth, "times", target=Target("ours", "<=", 1.5))
    )
    return rows


def _partition_rows(found: Mapping[int, Mapping[str, float]]) -> list[Row]:
    few, many = _PARTITIONS[-2], _PARTITIONS[-1]
    rows = [
        Row(
            f"{name}: time per partition with {many:,} ÷ with {few:,}",
            found[many][name] / many / (found[few][name] / few),
            "times",
            target=Target("ours", "<=", 1.5),
        )
        for name in (partitions.READ, partitions.PLAN, partitions.EXTEND, partitions.KEYS)
    ]
    seconds = [
        Row(f"{name}, {many:,} partitions", found[many][name], "s", target=Target("ours", "<=", 5.0))
        for name in found[many]
    ]
    return [*rows, *seconds]


def _curves(found: Mapping[int, Mapping[str, float]]) -> Curves:
    names = next(iter(found.values()))
    return {name: [(float(size), seconds[name]) for size, seconds in found.items()] for name in names}


def _measure_reports(number: int, progress: ProgressCallback) -> dict[str, float]:
    progress(f"{number:,} reports")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        reports.declare(folder / "reports", number)
        (folder / "home").mkdir()
        (folder / "home" / "dagster.yaml").write_text(yaml.safe_dump(_DAGSTER))
        with embedded_servers(folder / "servers") as servers:
            return json.loads(_run(folder, _environment(folder, servers), "reports", str(folder / "data")))


def _measure_bare(number: int, progress: ProgressCallback) -> float:
    progress(f"a bare Dagster project as large as {number:,} reports")
    with tempfile.TemporaryDirectory() as folder:
        return float(_run(Path(folder), _inherited(), "bare", str(number)))


def _run(folder: Path, environment: Mapping[str, str], module: str, argument: str) -> str:
    """Run a module of this package in a process of its own, and return the last line that it prints."""
    done = subprocess.run(  # noqa: S603 - runs this project with this interpreter
        [sys.executable, "-m", f"benchmarks.scale.{module}", argument],
        # Not the checkout, whose .env may name a real deployment.
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_SECONDS,
        check=False,
    )
    if done.returncode:
        raise BenchmarkError(f"{module} {argument} did not load: {done.stderr.strip()[-600:]}")
    return done.stdout.strip().splitlines()[-1]


def _inherited() -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("CACHE_PIPELINE_")}
    return {**inherited, "PYTHONPATH": str(_ROOT)}


def _environment(folder: Path, servers: EmbeddedServers) -> dict[str, str]:
    return {
        **_inherited(),
        "CACHE_PIPELINE_POSTGRES_URL": servers.postgres_url,
        "CACHE_PIPELINE_REDIS_URL": servers.redis_url,
        "CACHE_PIPELINE_REPORTS_DIR": str(folder / "reports"),
        "CACHE_PIPELINE_DATA_DIR": str(folder / "data"),
        "DAGSTER_HOME": str(folder / "home"),
    }


def _measure_partitions(progress: ProgressCallback) -> dict[int, dict[str, float]]:
    declared = {number: partitions.make_report(number) for number in _PARTITIONS}
    with (
        tempfile.TemporaryDirectory() as name,
        embedded_servers(Path(name) / "servers", redis_url="redis://none") as servers,
    ):
        migrate(servers.postgres_url, [(each, partitions.COLUMNS) for each in declared.values()])
        with open_history(servers.postgres_url) as history:
            found: dict[int, dict[str, float]] = {}
            for number, each in declared.items():
                progress(f"{number:,} partitions")
                found[number] = partitions.measure(history, each, number)
            return found
