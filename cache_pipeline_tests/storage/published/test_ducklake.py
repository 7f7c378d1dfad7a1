"""The DuckLake catalogue of published files: DuckDB reads the rows of the manifest, now and at its earlier snapshots."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest

from cache_pipeline.storage.published import EdgeTier
from cache_pipeline.storage.published.maintenance import collect_garbage, rollback
from cache_pipeline_tests.query.declared import declared
from cache_pipeline_tests.storage.sample_rows import NOW, REPORT, hours, table

REPOSITORY = Path(__file__).parents[3]
DAYS = [hours(0, 24), hours(24, 48)]
TOTAL = "SELECT count(*), sum(offered) FROM lake.cache_pipeline.queue_hour"


def ducklake_packages() -> Path:
    """Return the folder with duckdb and its extension; without it the test is skipped, and fails in CI."""
    folder = os.environ.get("CACHE_PIPELINE_TEST_DUCKLAKE_PACKAGES", "")
    if (REPOSITORY / folder / "duckdb_ext").is_dir() and folder:
        return REPOSITORY / folder
    message = "CACHE_PIPELINE_TEST_DUCKLAKE_PACKAGES names no folder with duckdb-ext-ducklake: .ci/run shows how"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="module")
def process() -> "Iterator[subprocess.Popen[str]]":
    """A process with the packages."""
    command = [sys.executable, "-m", "cache_pipeline_tests.storage.published.ducklake_process"]
    environment = {**os.environ, "PYTHONPATH": f"{ducklake_packages()}{os.pathsep}{REPOSITORY}"}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=REPOSITORY
    ) as running:
        yield running
        assert running.stdin is not None
        running.stdin.close()
        running.wait(20)


class Lake:
    """A store of published files with a catalogue, which another process uses."""

    def __init__(self, folder: Path, process: "subprocess.Popen[str]", catalog: str) -> None:
        self.folder, self._process, self._catalog = folder, process, catalog
        self.edge = EdgeTier(f"file://{folder}", lambda: NOW)

    def publish(self, offered: int = 1, report: Any = REPORT, days: Any = DAYS) -> str:
        return self.edge.publish(report, {day: table(day, offered, report=report) for day in days}, None).snapshot

    def ask(self, **document: str) -> Any:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps(document) + "\n")
        stdin.flush()
        line = stdout.readline()
        assert line, "the process has ended"
        return json.loads(line)

    def register(self) -> dict[str, Any]:
        found = self.ask(register=str(self.folder), catalog=self._catalog)
        assert isinstance(found, list), found
        (registration,) = found
        return registration

    def query(self, sql: str) -> Any:
        path = self._catalog.removeprefix("duckdb://")
        return self.ask(query=sql, attach=f"ducklake:{path}" if path.startswith("/") else f"ducklake:postgres:{path}")

    def total(self, at: str = "") -> list[int]:
        (row,) = self.query(f"{TOTAL} {at}")
        return [int(each) for each in row]

    def version(self, snapshot: str) -> str:
        """Return what selects the version of a manifest's snapshot, as docs/edge.md says."""
        ((version,),) = self.query(
            f"SELECT snapshot_id FROM lake.snapshots() WHERE commit_message = 'cache_pipeline {snapshot}'"
        )
        return f"AT (VERSION => {version})"

    def files(self, at: str = "") -> set[str]:
        return {name for (name,) in self.query(f"SELECT DISTINCT filename FROM lake.cache_pipeline.queue_hour {at}")}

    def expected(self, report: Any = REPORT) -> list[int]:
        rows = self.edge.read(report, hours(0, 48))
        return [rows.num_rows, pc.sum(rows["offered"]).as_py()]


@pytest.fixture
def lake(process: "subprocess.Popen[str]", tmp_path: Path) -> Lake:
    return Lake(tmp_path / "edge", process, f"duckdb://{tmp_path}/lake.ducklake")


@pytest.fixture
def postgres_lake(process: "subprocess.Popen[str]", tmp_path: Path, postgres_database: str) -> Lake:
    return Lake(tmp_path / "edge", process, postgres_database)


@pytest.mark.parametrize("catalog", ["lake", "postgres_lake"])
def test_table_equals_the_manifest_now_and_at_earlier_snapshots(catalog: str, request: pytest.FixtureRequest):
    lake: Lake = request.getfixturevalue(catalog)
    first = lake.publish()
    registered = lake.register()
    assert (registered["added"], registered["removed"]) == (2, 0)
    before = lake.expected()
    assert lake.total() == lake.total(registered["location"]) == before
    assert lake.register() == {**registered, "added": 0}
    second = lake.publish(offered=7, days=DAYS[1:])
    registered = lake.register()
    assert (registered["added"], registered["removed"]) == (1, 1)
    after = lake.expected()
    assert lake.total() == lake.total(lake.version(second)) == after
    assert lake.total(lake.version(first)) == before != after
    paths = [path.relative_to(lake.folder) for path in lake.folder.rglob("*") if path.is_file()]
    assert {path.parts[0] for path in paths if path.suffix == ".parquet"} == {"v1"}, "no data file is copied"


def test_rollback_added_column_and_garbage_are_followed(lake: Lake):
    first = lake.publish()
    lake.register()
    wider = declared(time_zone="UTC", group_by=["queueId"], metrics=["offered", "answered", "abandoned"])
    second = lake.publish(report=wider, offered=3)
    lake.register()
    assert lake.total() == lake.expected(wider)
    assert lake.query("SELECT count(abandoned) FROM lake.cache_pipeline.queue_hour") == [[96]]
    rollback(lake.edge, first)
    lake.register()
    assert lake.total() == lake.total(lake.version(first)) == lake.expected()
    collect_garbage(lake.edge, timedelta(0), keep_snapshots=1, forget=True)
    lake.register()
    versions = lake.query("SELECT snapshot_id, commit_message FROM lake.snapshots() WHERE author = 'cache_pipeline'")
    assert {message for _, message in versions}.isdisjoint({f"cache_pipeline {first}", f"cache_pipeline {second}"})
    for version, _ in versions:
        assert all(Path(name).is_file() for name in lake.files(f"AT (VERSION => {version})"))
    assert lake.total() == lake.expected()
    scheduled = "SELECT path FROM __ducklake_metadata_lake.ducklake_files_scheduled_for_deletion"
    assert [path for (path,) in lake.query(scheduled) if "/v1/" in path] == [], "DuckLake would delete published files"


def test_days_without_rows_come_and_go(lake: Lake):
    lake.edge.publish(REPORT, {DAYS[0]: table(DAYS[0], 1), DAYS[1]: table(DAYS[1], 1).slice(0, 0)}, None)
    assert lake.register()["added"] == 1
    assert lake.total() == [48, 48]
    lake.edge.publish(REPORT, {DAYS[0]: table(DAYS[0], 1).slice(0, 0), DAYS[1]: table(DAYS[1], 2)}, None)
    lake.register()
    assert lake.total() == [48, 96]


def test_catalogue_that_cannot_be_used_is_one_line(process: "subprocess.Popen[str]", tmp_path: Path):
    lake = Lake(tmp_path / "edge", process, "postgresql://someone:planted-secret-value@127.0.0.1:1/nowhere")
    lake.publish()
    message = lake.ask(
        register=str(lake.folder), catalog="postgresql://someone:planted-secret-value@127.0.0.1:1/nowhere"
    )
    assert message.startswith("the DuckLake catalogue cannot be used: ")
    assert "planted-secret-value" not in message
    assert "\n" not in message
