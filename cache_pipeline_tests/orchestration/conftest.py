"""Fixtures of the Dagster tests: an isolated environment, Dagster instances, and benches of common reports."""

import os
from collections.abc import Generator
from functools import partial
from pathlib import Path

import dagster as dg
import pytest
import yaml

from cache_pipeline.orchestration.dagster_compat import write_events_in_batches
from cache_pipeline.upstream import polling
from cache_pipeline.upstream.polling import GuideSchedule
from cache_pipeline_tests.orchestration.workbench import Bench, declaration, job_declaration, open_bench


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """Clear all settings but those that every process of the project makes; poll a hundred times as often."""
    for name in [name for name in os.environ if name.startswith("CACHE_PIPELINE_")]:
        monkeypatch.delenv(name)
    defaults: dict[str, str] = {}
    write_events_in_batches(defaults)
    for name, value in defaults.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(polling, "GuideSchedule", partial(GuideSchedule, first_seconds=0.02, max_seconds=0.15))
    return monkeypatch


@pytest.fixture
def servers(environment: pytest.MonkeyPatch, postgres_database: str, redis_database: str) -> pytest.MonkeyPatch:
    """Set the URLs of PostgreSQL and Redis in the environment."""
    environment.setenv("CACHE_PIPELINE_POSTGRES_URL", postgres_database)
    environment.setenv("CACHE_PIPELINE_REDIS_URL", redis_database)
    return environment


@pytest.fixture
def bench(servers: pytest.MonkeyPatch, tmp_path: Path) -> Generator[Bench]:
    """Open a bench of a report that one request answers."""
    with open_bench(servers, tmp_path, declaration()) as bench:
        yield bench


@pytest.fixture
def job_bench(servers: pytest.MonkeyPatch, tmp_path: Path) -> Generator[Bench]:
    """Open a bench of a report that is answered by job."""
    with open_bench(servers, tmp_path, job_declaration()) as bench:
        yield bench


@pytest.fixture
def one_query_bench(servers: pytest.MonkeyPatch, tmp_path: Path) -> Generator[Bench]:
    """Open a bench of a report by job whose answers are never suspect, so that each partition is one query."""
    with open_bench(servers, tmp_path, job_declaration(expected_groups=1)) as bench:
        yield bench


@pytest.fixture
def instance() -> Generator[dg.DagsterInstance]:
    """Open a Dagster instance whose storage is in memory."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def home(servers: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Set a DAGSTER_HOME whose storage is the test's own PostgreSQL database."""
    folder = tmp_path / "dagster"
    folder.mkdir()
    config = {
        "storage": {"postgres": {"postgres_url": {"env": "CACHE_PIPELINE_POSTGRES_URL"}}},
        # The default starts four processes for each run, to copy its output.
        "compute_logs": {
            "module": "dagster._core.storage.noop_compute_log_manager",
            "class": "NoOpComputeLogManager",
        },
        "telemetry": {"enabled": False},
    }
    (folder / "dagster.yaml").write_text(yaml.safe_dump(config))
    servers.setenv("DAGSTER_HOME", str(folder))
    return folder
