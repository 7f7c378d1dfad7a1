"""Concurrent publishers in several processes, on a folder and on a bucket."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest

from cache_pipeline import edge
from cache_pipeline.errors import EdgeStoreError
from cache_pipeline.storage.published import EdgeTier
from cache_pipeline.storage.published.maintenance import collect_garbage
from cache_pipeline_tests.query.declared import declared
from cache_pipeline_tests.storage.sample_rows import NOW, REPORT, hours, table

_PUBLISH = """
import sys
from cache_pipeline.storage.published import EdgeTier
from cache_pipeline_tests.query.declared import declared
from cache_pipeline_tests.storage.sample_rows import NOW, hours, table
url, report, *spans = sys.argv[1:]
edge = EdgeTier(url, lambda: NOW)
declaration = declared(name=report, time_zone="UTC", group_by=["queueId"])
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


def run_at_once(processes: "list[subprocess.Popen[str]]") -> None:
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


@pytest.fixture(params=["folder", "bucket"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"file://{tmp_path}" if request.param == "folder" else request.getfixturevalue("bucket")


def test_publishers_of_different_reports_lose_nothing(url: str):
    days = [f"{24 * n}-{24 * n + 24}-{n + 1}" for n in range(4)]
    run_at_once([start(url, name, *days) for name in ("one", "two")])
    tier = EdgeTier(url, lambda: NOW)
    assert set(tier.manifest().datasets) == {"one", "two"}
    for name in ("one", "two"):
        rows = tier.read(declared(name=name, time_zone="UTC", group_by=["queueId"]), hours(0, 96))
        assert rows["offered"].to_pylist() == [n + 1 for n in range(4) for _ in range(48)]


def test_publishers_of_the_same_day_lose_nothing(url: str):
    """Each of two processes publishes every other hour of one day."""
    run_at_once([start(url, "queue_hour", *(f"{n}-{n + 1}-{n + 1}" for n in range(k, 24, 2))) for k in range(2)])
    rows = EdgeTier(url, lambda: NOW).read(REPORT, hours(0, 24))
    assert rows["offered"].to_pylist() == [n + 1 for n in range(24) for _ in range(2)]


def test_version_is_replaced_once(bucket: str):
    """The bucket must check and write in one step, as the vendors of object stores do; publishers rely on it."""
    store = EdgeTier(bucket, lambda: NOW).store
    store.create("swapped.json", b"0")
    with ThreadPoolExecutor(8) as threads:
        for turn in range(1, 31):
            found = store.get("swapped.json")
            assert found is not None
            swaps = [threads.submit(store.swap, "swapped.json", f"{turn}-{n}".encode(), found[1]) for n in range(8)]
            assert sum(swap.result() for swap in swaps) == 1


def test_reader_never_sees_half_a_publication(url: str):
    tier = EdgeTier(url, lambda: NOW)
    tier.publish(REPORT, {hours(0, 24): table(hours(0, 24), 0)}, None)
    process = start(url, "queue_hour", *(f"0-24-{n}" for n in range(1, 25)))
    assert process.stdout
    assert process.stdin
    process.stdout.readline()
    process.stdin.write("go\n")
    process.stdin.flush()
    seen: set[float] = set()
    while process.poll() is None:
        offered = tier.read(REPORT, hours(0, 24))["offered"].to_pylist()
        assert len(offered) == 48
        assert len(set(offered)) == 1
        seen.add(offered[0])
    process.communicate()
    assert process.returncode == 0
    assert len(seen) > 1


def test_blocked_data_folder_is_one_clear_error(tmp_path: Path):
    tier = EdgeTier(f"file://{tmp_path}", lambda: NOW)
    (tmp_path / "v1" / "default" / "data").write_text("in the way")
    with pytest.raises(EdgeStoreError, match="queue_hour"):
        tier.publish(REPORT, {hours(0, 24): table(hours(0, 24))}, None)
    assert tier.manifest().datasets == {}


def test_eight_publishers_are_all_in_the_manifest(url: str):
    """The publishers know nothing of each other; the manifest is merged by compare-and-swap."""
    ready = threading.Barrier(8)

    def publish(number: int) -> None:
        edge = EdgeTier(url, lambda: NOW)
        ready.wait()
        for day in (number, number + 8):
            span = hours(24 * day, 24 * day + 24)
            edge.publish(REPORT, {span: table(span, day + 1)}, None)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(publish, range(8)))
    [dataset] = EdgeTier(url, lambda: NOW).manifest().datasets.values()
    assert len(dataset.files) == 16
    rows = edge.read(f"{url}/v1/default", "queue_hour")
    assert rows["offered"].to_pylist() == [day + 1 for day in range(16) for _ in range(48)]


def test_reader_is_consistent_during_publications_and_collections(url: str):
    """Only the newest manifest's files are kept, which is the hardest case for a reader of the previous one."""
    tier, done, seen = EdgeTier(url, lambda: NOW), threading.Event(), []
    days = [hours(0, 24), hours(24, 48), hours(48, 72)]
    tier.publish(REPORT, {day: table(day, 0) for day in days}, None)

    def read_repeatedly() -> None:
        while not done.is_set():
            rows = edge.read(f"{url}/v1/default", "queue_hour")["offered"].to_pylist()
            seen.append([{*rows[48 * day : 48 * day + 48]} for day in range(3)] + [len(rows)])

    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(read_repeatedly)
        try:
            for number in range(1, 101):
                day = days[number % 3]
                tier.publish(REPORT, {day: table(day, number)}, None)
                if number % 5 == 0:
                    collect_garbage(tier, forget=True)
        finally:
            done.set()
        reader.result()
    assert len(seen) > 10
    assert all(count == 144 and all(len(values) == 1 for values in by_day) for *by_day, count in seen)
    # A reader never sees an older version after a newer one.
    history = [[next(iter(values)) for values in by_day] for *by_day, _ in seen]
    assert all(
        later >= earlier for before, after in pairwise(history) for earlier, later in zip(before, after, strict=True)
    )
    assert len(list(tier.store.list("data"))) == 3
