"""Tests that a demo uses servers, stores, tenant and accounts of its own, whatever the environment and `.env` say."""

import json
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from cache_pipeline.cli.demo_environment import DemoRequest, run_demo_environment

REPOSITORY = Path(__file__).parents[2]
#: What a checkout beside a production deployment may hold; nothing of it may be used.
PRODUCTION = {
    "CACHE_PIPELINE_POSTGRES_URL": "postgresql://user:acme-live-secret@127.0.0.1:1/acme-live",
    "CACHE_PIPELINE_REDIS_URL": "redis://:acme-live-secret@127.0.0.1:1/0",
    "CACHE_PIPELINE_EDGE_URL": "s3://acme-live/edge",
    "CACHE_PIPELINE_EDGE_PUBLIC_URL": "https://acme-live.example/v1/acme/",
    "CACHE_PIPELINE_TENANT": "acme",
    "CACHE_PIPELINE_JOBS__QUEUE_URL": "amqp://user:acme-live-secret@127.0.0.1:1",
    "CACHE_PIPELINE_ACCOUNTS__CXONE__MAIN": json.dumps(
        {
            "base_url": "https://acme-live.example",
            "login_url": "https://acme-live.example/token",
            "clients": [{"client_id": "acme-live", "client_secret": "acme-live-secret"}],
        }
    ),
    "CACHE_PIPELINE_ACCOUNTS__GENESYS__MAIN": json.dumps(
        {"region": "eu_central_1", "clients": [{"client_id": "acme-live", "client_secret": "acme-live-secret"}]}
    ),
    "CACHE_PIPELINE_API__CORS_ORIGINS": '["*"]',
    "CACHE_PIPELINE_PARTITIONS_FROM": "1999-01-01",
    "CACHE_PIPELINE_TRACES": "otlp",
    "CACHE_PIPELINE_NO_SUCH_SETTING": "acme-live",
}
PROBE = "from cache_pipeline.settings import read_settings; print(read_settings().model_dump_json(exclude={'log'}))"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project folder whose Dagster instance belongs to production too."""
    (tmp_path / "reports").mkdir()
    shutil.copy(REPOSITORY / "reports" / "queue_day.yaml", tmp_path / "reports")
    (tmp_path / "dagster.yaml").write_text("storage: {postgres: {postgres_url: postgresql://acme-live.example/db}}\n")
    shutil.copy(REPOSITORY / "workspace.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def child_settings(demo):
    """Read the settings as a child process of the demo does."""
    probe = subprocess.run(
        [sys.executable, "-c", PROBE],
        cwd=demo.folder,
        env={**demo.environment, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=True,
    )
    return probe.stdout


@pytest.mark.parametrize("source", ["environment", ".env"])
def test_demo_ignores_production_settings(project, monkeypatch, source):
    if source == ".env":
        (project / ".env").write_text("".join(f"{name}='{value}'\n" for name, value in PRODUCTION.items()))
    else:
        for name, value in PRODUCTION.items():
            monkeypatch.setenv(name, value)
    with run_demo_environment(DemoRequest(None, "UTC", None, None), datetime.now(UTC)) as demo:
        dumped = child_settings(demo)
        settings = demo.settings
        assert "acme-live" not in dumped
        for each in (json.loads(dumped), json.loads(settings.model_dump_json())):
            assert each["tenant"] == "default"
            assert each["edge_url"] is None
            assert set(each["accounts"]) == {"reportdata", "genesys"}
            assert each["accounts"]["genesys"]["main"]["base_url"].startswith(demo.simulator_url)
            assert Path(each["data_dir"]) == project / "data" / "demo"
            assert Path(each["reports_dir"]) == project / "reports"
        assert Path(demo.environment["DAGSTER_HOME"]).is_relative_to(project / "data" / "demo")
        assert "acme-live" not in (Path(demo.environment["DAGSTER_HOME"]) / "dagster.yaml").read_text()
        assert not (demo.folder / ".env").exists()
        assert set(demo.ignored) >= {"CACHE_PIPELINE_POSTGRES_URL", "CACHE_PIPELINE_EDGE_URL", "CACHE_PIPELINE_TENANT"}


def test_demo_reads_the_folders_of_the_project(project, monkeypatch):
    (project / "reports").rename(project / "declared")
    monkeypatch.setenv("CACHE_PIPELINE_REPORTS_DIR", "declared")
    (project / ".env").write_text("CACHE_PIPELINE_DATA_DIR=elsewhere\n")
    with run_demo_environment(DemoRequest(None, "UTC", None, None), datetime.now(UTC)) as demo:
        assert demo.settings.reports_dir == project / "declared"
        assert demo.settings.data_dir == project / "elsewhere" / "demo"
        assert "CACHE_PIPELINE_REPORTS_DIR" not in demo.ignored


@pytest.mark.parametrize("folder", ["benchmarks", "cache_pipeline_tests/chaos"])
def test_benchmarks_and_chaos_read_no_deployment(folder):
    """They build settings from arguments, and their processes inherit no variable of ours and run elsewhere."""
    for path in sorted((REPOSITORY / folder).rglob("*.py")):
        text = path.read_text()
        assert not re.search(r"(?<!\w)Settings\(", text), f"{path}: use StandaloneSettings"
        assert "**os.environ," not in text or "CACHE_PIPELINE" not in text, f"{path}: drop CACHE_PIPELINE_*"
        assert "cwd=_ROOT" not in text, f"{path}: .env may be there"


@pytest.mark.parametrize("hour", range(0, 24, 3))
def test_all_reports_begin_with_the_first_of_their_partitions_at_every_hour(hour):
    now = datetime(2026, 11, 29, hour, 30, tzinfo=UTC)
    for zone in ("America/New_York", "Pacific/Honolulu", "Europe/Berlin", "Pacific/Kiritimati"):
        first, end = DemoRequest(None, "UTC", None, None).days(now, ZoneInfo(zone))
        assert first == DemoRequest(None, "UTC", None, None).days(now, UTC)[0]
        assert timedelta(days=27) <= end - first <= timedelta(days=29)
        assert datetime.combine(end, time(), ZoneInfo(zone)) <= now
