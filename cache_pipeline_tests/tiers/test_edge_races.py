"""Publishers in several processes on one folder, and on one bucket where a server for it is installed."""

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cache_pipeline.tiers.edge import EdgeStoreError, EdgeTier
from cache_pipeline_tests.query.declared import declared
from cache_pipeline_tests.tiers.rows import NOW, REPORT, hours, table

_PUBLISH = """
import sys
from cache_pipeline.tiers.edge import EdgeTier
from cache_pipeline_tests.query.declared import declared
from cache_pipeline_tests.tiers.rows import NOW, hours, table
url, report, *spans = sys.argv[1:]
edge = EdgeTier(url, lambda: NOW)
declaration = declared(report=report, time_zone="UTC", group_by=["queueId"])
print("ready", flush=True)
sys.stdin.readline()
for span in spans:
    first, last, offered = map(int, span.split("-"))
    edge.publish(declaration, {hours(first, last): table(hours(first, last), offered)}, None)
"""


def start(url: str, report: str, *spans: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", _PUBLISH, url, report, *spans],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def all_at_once(processes: "list[subprocess.Popen[str]]") -> None:
    for process in processes:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=60)
        assert process.returncode == 0


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket of a server on this machine; moto is no dependency of the project."""
    if importlib.util.find_spec("moto") is None:
        pytest.skip("moto is not installed")
    import boto3  # pyright: ignore
    from moto.server import ThreadedMotoServer  # pyright: ignore

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        monkeypatch.setenv("AWS_ENDPOINT", f"http://{host}:{port}")
        client = boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1")
        client.create_bucket(Bucket="edge")
        yield "s3://edge/prefix"
    finally:
        server.stop()


@pytest.fixture(params=["folder", "bucket"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"file://{tmp_path}" if request.param == "folder" else request.getfixturevalue("bucket")


def test_publishers_of_different_reports_lose_nothing_of_each_other(url: str):
    days = [f"{24 * n}-{24 * n + 24}-{n + 1}" for n in range(4)]
    all_at_once([start(url, name, *days) for name in ("one", "two")])
    edge = EdgeTier(url, lambda: NOW)
    assert set(edge.manifest().datasets) == {"one", "two"}
    for name in ("one", "two"):
        rows = edge.read(declared(report=name, time_zone="UTC", group_by=["queueId"]), hours(0, 96))
        assert rows["offered"].to_pylist() == [n + 1 for n in range(4) for _ in range(48)]


def test_publishers_of_the_same_day_lose_nothing_of_each_other(url: str):
    """Two processes put every other hour of one day each."""
    all_at_once([start(url, "queue_hour", *(f"{n}-{n + 1}-{n + 1}" for n in range(k, 24, 2))) for k in range(2)])
    rows = EdgeTier(url, lambda: NOW).read(REPORT, hours(0, 24))
    assert rows["offered"].to_pylist() == [n + 1 for n in range(24) for _ in range(2)]


def test_a_reader_never_meets_half_of_a_file_or_manifest(url: str):
    edge = EdgeTier(url, lambda: NOW)
    edge.publish(REPORT, {hours(0, 24): table(hours(0, 24), 0)}, None)
    process = start(url, "queue_hour", *(f"0-24-{n}" for n in range(1, 25)))
    assert process.stdout
    assert process.stdin
    process.stdout.readline()
    process.stdin.write("go\n")
    process.stdin.flush()
    seen: set[float] = set()
    while process.poll() is None:
        offered = edge.read(REPORT, hours(0, 24))["offered"].to_pylist()
        assert len(offered) == 48
        assert len(set(offered)) == 1
        seen.add(offered[0])
    process.communicate()
    assert process.returncode == 0
    assert len(seen) > 1


def test_files_without_room_for_their_folder_are_one_clear_error(tmp_path: Path):
    edge = EdgeTier(f"file://{tmp_path}", lambda: NOW)
    (tmp_path / "v1" / "default" / "data").write_text("in the way")
    with pytest.raises(EdgeStoreError, match="queue_hour"):
        edge.publish(REPORT, {hours(0, 24): table(hours(0, 24))}, None)
    assert edge.manifest().datasets == {}
