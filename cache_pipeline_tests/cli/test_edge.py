"""Tests of `cache-pipeline edge`: output, exit codes, and the files it writes."""

import http.client
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from cache_pipeline.bootstrap.database import migrate_history
from cache_pipeline.bootstrap.reports import load_reports
from cache_pipeline.cli.edge_server import serving_edge
from cache_pipeline.cli.main import main
from cache_pipeline.query.interval import IntervalSet
from cache_pipeline.query.series import Series
from cache_pipeline.settings import read_settings
from cache_pipeline.storage.postgres.history import open_history
from cache_pipeline.storage.published import EdgeTier
from cache_pipeline_tests.dashboard.centre import DAILY, day, rows
from cache_pipeline_tests.storage.sample_rows import replacement

YAML = """name: queue_day
description: Figures by queue and day
platform: reportdata
query_type: queue-performance
granularity: P1D
group_by: [queueId]
metrics: [offered, answered, abandoned, answeredWithinTarget, waitMs, handleMs]
partition: day
start: 2026-01-01
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_settings: None) -> Path:
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports/queue_day.yaml").write_text(YAML)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(project, monkeypatch, capsys):
    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["cache-pipeline", "edge", *arguments])
        code = 0
        try:
            main()
        except SystemExit as exited:
            code = exited.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


@pytest.fixture
def published(project) -> Path:
    edge = EdgeTier(f"file://{project}/data/edge", lambda: datetime.now(UTC))
    for offered in (100, 110):
        edge.publish(DAILY, {day(days_ago): rows(DAILY, day(days_ago), offered) for days_ago in (1, 2)}, None)
    return project / "data/edge/v1/default"


def test_publish_writes_stored_days_and_the_page(run, project, postgres_database, monkeypatch):
    monkeypatch.setenv("CACHE_PIPELINE_POSTGRES_URL", postgres_database)
    settings = read_settings()
    reports = load_reports(settings)
    migrate_history(settings, reports)
    code, output, _ = run("publish")
    assert (code, output.splitlines()[0]) == (0, "queue_day: history holds no rows; run a backfill first")
    report = reports["queue_day"]
    days = [day(days_ago) for days_ago in (3, 2, 1)]
    with open_history(postgres_database) as history:
        for interval in days:
            history.replace(replacement(interval, series=Series(report), rows=rows(report, interval, 100)))
    code, output, _ = run("publish", "queue_day", "--interval", "2026-11-21/2026-11-23")
    assert code == 0, output
    assert output.startswith("queue_day: 6 rows in 2 files, 2 uploaded; snapshot ")
    assert "index.html" in output
    code, output, _ = run("publish", "--all")
    assert output.startswith("queue_day: 9 rows in 3 files, 1 uploaded; snapshot ")
    assert run("verify")[1].startswith("all 3 files match the manifest, ")
    edge = EdgeTier(f"file://{project}/data/edge", lambda: datetime.now(UTC))
    assert edge.read(report, next(iter(IntervalSet(days)))).num_rows == 9


def test_ls_lists_snapshots_and_rollback_restores_one(run, published):
    code, output, _ = run("ls")
    assert code == 0
    assert "queue_day" in output
    assert "2026-11-24T00:00:00Z" in output
    assert json.loads(run("ls", "--json")[1])["datasets"]["queue_day"]["time_zone"] == "UTC"
    lines = run("ls", "--snapshots")[1].splitlines()
    assert len(lines) == 2
    assert lines[0].endswith("current")
    old = lines[1].split()[0]
    assert run("rollback", old)[1].startswith(f"rolled back to snapshot {old}")
    assert run("rollback", "0123")[::2] == (
        2,
        "cache-pipeline: no snapshot 0123: choose one from cache-pipeline edge ls --snapshots\n",
    )


def test_verify_lists_problems_and_exits_with_1(run, published):
    next(published.glob("data/*/*/*.parquet")).unlink()
    run("gc", "--forget")
    for file in published.glob("data/*/*/*.parquet"):
        file.write_bytes(b"other")
    code, output, _ = run("verify")
    assert code == 1
    assert all("with cache-pipeline edge publish" in line for line in output.splitlines())


def test_gc_deletes_unreferenced_files_and_reports_them(run, published):
    assert run("gc")[1] == "0 files (0 bytes) and 0 snapshots deleted; 2 snapshots remain for rollback\n"
    code, output, _ = run("gc", "--forget")
    assert code == 0
    assert output.startswith("2 files (")
    assert "purge the CDN too" in output
    code, _, output = run("gc", "--keep-for", "soon")
    assert code == 2
    assert "write 7d or 36h" in output


def test_save_writes_the_page_as_one_file(run, published, project):
    code, output, _ = run("save", "page.html")
    assert code == 0
    assert output.startswith((project / "page.html").as_uri())
    assert b'id="embedded"' in (project / "page.html").read_bytes()
    assert run("save", "no/such/folder/page.html")[0] == 2


def test_commands_on_empty_store_fail_with_one_line(run, project):
    for arguments in (("save", "page.html"), ("serve",)):
        code, _, output = run(*arguments)
        assert code == 2
        assert output.count("\n") == 1
    assert run("verify")[0] == 1


def test_static_server_serves_only_published_files(published, project):
    (project / "data/edge/secret.json").write_text("{}")
    (project / "data/secret.json").write_text("{}")
    with serving_edge(project / "data/edge") as url, httpx.Client(base_url=url) as client:
        manifest = client.get("/v1/default/manifest.json")
        assert manifest.headers["cache-control"].startswith("public, max-age=60")
        conditional = {"If-None-Match": manifest.headers["etag"]}
        assert client.get("/v1/default/manifest.json", headers=conditional).status_code == 304
        path = manifest.json()["datasets"]["queue_day"]["files"][0]["path"]
        data = client.get(f"/v1/default/{path}", headers={"Range": "bytes=-4"})
        assert (data.status_code, data.content) == (206, b"PAR1")
        assert data.headers["cache-control"].endswith("immutable")
        wrong = [
            "/",
            "/v1/default/no.json",
            "/v1/../secret.json",
            "/v1/%2e%2e/secret.json",
            "/v1/..%2f..%2fsecret.json",
        ]
        for target in wrong:
            # Send the path unchanged; httpx would normalise it.
            connection = http.client.HTTPConnection(url.removeprefix("http://"))
            connection.request("GET", target)
            answer = connection.getresponse()
            assert (answer.status, b"{}" in answer.read()) == (404, False), target
            connection.close()
