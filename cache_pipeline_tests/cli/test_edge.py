"""``cache-pipeline edge`` from the command line: what it prints, its exit codes, and what it leaves in the folder."""

import http.client
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from cache_pipeline.bootstrap import load_reports, migrate_history
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
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports/queue_day.yaml").write_text(YAML)
    monkeypatch.chdir(tmp_path)
    for name in ("POSTGRES_URL", "REDIS_URL", "DATA_DIR", "REPORTS_DIR", "REPORTDATA", "GENESYS", "EDGE_URL"):
        monkeypatch.delenv(f"CACHE_PIPELINE_{name}", raising=False)
    return tmp_path


@pytest.fixture
def run(project, monkeypatch, capsys):
    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["cache-pipeline", "edge", *arguments])
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = ended.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


@pytest.fixture
def published(project) -> Path:
    edge = EdgeTier(f"file://{project}/data/edge", lambda: datetime.now(UTC))
    for offered in (100, 110):
        edge.publish(DAILY, {day(back): rows(DAILY, day(back), offered) for back in (1, 2)}, None)
    return project / "data/edge/v1/default"


def test_what_history_holds_is_published_with_the_page(run, project, postgres_database, monkeypatch):
    monkeypatch.setenv("CACHE_PIPELINE_POSTGRES_URL", postgres_database)
    settings = read_settings()
    reports = load_reports(settings)
    migrate_history(settings, reports)
    code, said, _ = run("publish")
    assert (code, said.splitlines()[0]) == (0, "queue_day: history holds nothing of it; run its backfill first")
    report = reports["queue_day"]
    spans = [day(back) for back in (3, 2, 1)]
    with open_history(postgres_database) as history:
        for span in spans:
            history.replace(replacement(span, series=Series(report), rows=rows(report, span, 100)))
    code, said, _ = run("publish", "queue_day", "--interval", "2026-11-21/2026-11-23")
    assert code == 0, said
    assert said.startswith("queue_day: 6 rows in 2 files, 2 uploaded; snapshot ")
    assert "index.html" in said
    code, said, _ = run("publish", "--all")
    assert said.startswith("queue_day: 9 rows in 3 files, 1 uploaded; snapshot ")
    assert run("verify")[1].startswith("all 3 files are as published, ")
    edge = EdgeTier(f"file://{project}/data/edge", lambda: datetime.now(UTC))
    assert edge.read(report, next(iter(IntervalSet(spans)))).num_rows == 9


def test_data_sets_and_snapshots_are_listed_and_gone_back_to(run, published):
    code, said, _ = run("ls")
    assert code == 0
    assert "queue_day" in said
    assert "2026-11-24T00:00:00Z" in said
    assert json.loads(run("ls", "--json")[1])["datasets"]["queue_day"]["time_zone"] == "UTC"
    lines = run("ls", "--snapshots")[1].splitlines()
    assert len(lines) == 2
    assert lines[0].endswith("current")
    old = lines[1].split()[0]
    assert run("rollback", old)[1].startswith(f"the manifest is that of {old} again")
    assert run("rollback", "0123")[::2] == (
        2,
        "cache-pipeline: no snapshot 0123: choose one from cache-pipeline edge ls --snapshots\n",
    )


def test_what_is_wrong_is_listed_with_exit_code_1(run, published):
    next(published.glob("data/*/*/*.parquet")).unlink()
    run("gc", "--forget")
    for file in published.glob("data/*/*/*.parquet"):
        file.write_bytes(b"other")
    code, said, _ = run("verify")
    assert code == 1
    assert all("with cache-pipeline edge publish" in line for line in said.splitlines())


def test_garbage_is_collected_and_told(run, published):
    assert run("gc")[1] == "0 files (0 bytes) and 0 snapshots deleted; 2 snapshots can be gone back to\n"
    code, said, _ = run("gc", "--forget")
    assert code == 0
    assert said.startswith("2 files (")
    assert "purge the CDN too" in said
    code, _, said = run("gc", "--keep-for", "soon")
    assert code == 2
    assert "write 7d or 36h" in said


def test_the_page_is_saved_as_one_file(run, published, project):
    code, said, _ = run("save", "page.html")
    assert code == 0
    assert said.startswith((project / "page.html").as_uri())
    assert b'id="embedded"' in (project / "page.html").read_bytes()
    assert run("save", "no/such/folder/page.html")[0] == 2


@pytest.mark.parametrize("content", ["- a list", "queue_id: Billing", "{", "queue_id: {1: 2"])
def test_names_of_another_shape_are_told(run, published, content):
    Path("labels.yaml").write_text(content)
    code, _, said = run("publish", "--page-only", "--labels", "labels.yaml")
    assert code == 2
    assert said.startswith("cache-pipeline: labels.yaml")
    assert said.count("\n") == 1


def test_an_empty_store_is_told(run, project):
    for arguments in (("save", "page.html"), ("serve",)):
        code, _, said = run(*arguments)
        assert code == 2
        assert said.count("\n") == 1
    assert run("verify")[0] == 1


def test_the_static_server_sends_a_cdns_headers_and_nothing_that_is_not_published(published, project):
    (project / "data/edge/secret.json").write_text("{}")
    (project / "data/secret.json").write_text("{}")
    with serving_edge(project / "data/edge") as url, httpx.Client(base_url=url) as client:
        manifest = client.get("/v1/default/manifest.json")
        assert manifest.headers["cache-control"].startswith("public, max-age=60")
        known = {"If-None-Match": manifest.headers["etag"]}
        assert client.get("/v1/default/manifest.json", headers=known).status_code == 304
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
            # As it stands: a client would tidy the path up before it asks.
            connection = http.client.HTTPConnection(url.removeprefix("http://"))
            connection.request("GET", target)
            answer = connection.getresponse()
            assert (answer.status, b"{}" in answer.read()) == (404, False), target
            connection.close()
