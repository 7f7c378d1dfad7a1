"""An environment of a test's own, and benches that run in it."""

import os
from collections.abc import Generator
from functools import partial
from pathlib import Path

import dagster as dg
import pytest
import yaml

from cache_pipeline import bootstrap as engine
from cache_pipeline.orchestration.dagster_compat import write_events_in_batches
from cache_pipeline.upstream.polling import GuideSchedule
from cache_pipeline_tests.orchestration.workbench import Bench, bench_of, declared, declared_by_job


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """No setting but those a test makes or the project's own processes make, and polls a hundred times as often."""
    for name in [name for name in os.environ if name.startswith("CACHE_PIPELINE_")]:
        monkeypatch.delenv(name)
    made: dict[str, str] = {}
    write_events_in_batches(made)
    for name, value in made.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(engine, "GuideSchedule", partial(GuideSchedule, first_seconds=0.02, max_seconds=0.15))
    return monkeypatch


@pytest.fixture
def servers(environment: pytest.MonkeyPatch, postgres_database: str, redis_database: str) -> pytest.MonkeyPatch:
    """The environment names a PostgreSQL and a Redis."""
    environment.setenv("CACHE_PIPELINE_POSTGRES_URL", postgres_database)
    environment.setenv("CACHE_PIPELINE_REDIS_URL", redis_database)
    return environment


@pytest.fixture
def bench(servers: pytest.MonkeyPatch, tmp_path: Path) -> Generator[Bench]:
    """A report that is answered in one request."""
    with bench_of(servers, tmp_path, declared()) as bench:
        yield bench


@pytest.fixture
def job_bench(servers: pytest.MonkeyPatch, tmp_path: Path) -> Generator[Bench]:
    """A report that is answered by job."""
    with bench_of(servers, tmp_path, declared_by_job()) as bench:
        yield bench


@pytest.fixture
def unjudged_bench(servers: pytest.MonkeyPatch, tmp_path: Path) -> Generator[Bench]:
    """A report by job of which no answer is doubted, so that one partition is one query."""
    with bench_of(servers, tmp_path, declared_by_job(expected_groups=1)) as bench:
        yield bench


@pytest.fixture
def instance() -> Generator[dg.DagsterInstance]:
    """Dagster's storage in memory."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def home(servers: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A DAGSTER_HOME whose storage is the test's own PostgreSQL database."""
    folder = tmp_path / "dagster"
    folder.mkdir()
    config = {
        "storage": {"postgres": {"postgres_url": {"env": "CACHE_PIPELINE_POSTGRES_URL"}}},
        # The default starts four processes for each run, to copy what it prints.
        "compute_logs": {
            "module": "dagster._core.storage.noop_compute_log_manager",
            "class": "NoOpComputeLogManager",
        },
        "telemetry": {"enabled": False},
    }
    (folder / "dagster.yaml").write_text(yaml.safe_dump(config))
    servers.setenv("DAGSTER_HOME", str(folder))
    return folder
