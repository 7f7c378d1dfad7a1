"""Tests of replaying measured volumes from a file."""

import gzip
from datetime import date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_pipeline.simulator import SimulatorError, SimulatorSettings, create_app
from cache_pipeline.simulator.truth import create_truth
from cache_pipeline.simulator.volume_replay import read_arrivals
from cache_pipeline_tests.simulator.vendor import Json, open_vendor

BERLIN = "Europe/Berlin"


def _write(path: Path, rows: list[tuple[str, int]]) -> Path:
    text = "start,calls\n" + "".join(f"{start},{calls}\n" for start, calls in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


def _grid(start: str, slots: int, minutes: int) -> list[tuple[str, int]]:
    first = datetime.fromisoformat(start)
    return [((first + timedelta(minutes=minutes * n)).isoformat(), (n * 7919) % 13) for n in range(slots)]


def _offered(rows: list[Json]) -> dict[str, int]:
    return {row["intervalStart"]: row["offered"] for row in rows}


@pytest.mark.parametrize("name", ["calls.csv", "calls.csv.gz"])
def test_slots_and_days_have_the_files_calls(tmp_path: Path, name: str) -> None:
    rows = _grid("2024-05-06T00:00:00", 3 * 48, 30)
    settings = SimulatorSettings(arrivals=_write(tmp_path / name, rows))
    with open_vendor(settings) as vendor:
        interval = "2024-05-01T00:00:00Z/2024-05-20T00:00:00Z"
        by_slot = _offered(vendor.truth(interval, granularity="PT30M"))
        assert by_slot == {f"{start}.000Z": calls for start, calls in rows if calls}
        by_day = vendor.rows(timeGrouping="byDay", interval=interval, groupBy=[], columns=["offered"])
        expected = {
            f"2024-05-0{day}T00:00:00.000Z": sum(calls for start, calls in rows if start.startswith(f"2024-05-0{day}"))
            for day in (6, 7, 8)
        }
        assert _offered(by_day) == expected
        groups = vendor.rows(interval=interval, timeGrouping="byMonth", columns=["offered"])
        assert len(groups) > 15
        assert sum(row["offered"] for row in groups) == sum(calls for _, calls in rows)


def test_local_times_use_the_files_zone(tmp_path: Path) -> None:
    path = _write(tmp_path / "calls.csv", [("2024-06-10T00:00:00", 4), ("2024-06-10T01:00:00", 9)])
    with open_vendor(SimulatorSettings(arrivals=path, arrivals_zone="Asia/Jerusalem")) as vendor:
        rows = vendor.truth("2024-06-09T00:00:00Z/2024-06-11T00:00:00Z", granularity="PT1H")
    assert _offered(rows) == {"2024-06-09T21:00:00.000Z": 4, "2024-06-09T22:00:00.000Z": 9}


def _by_hour(path: Path, interval: str) -> dict[str, int]:
    with open_vendor(SimulatorSettings(arrivals=path, arrivals_zone=BERLIN)) as vendor:
        return {start[8:13]: calls for start, calls in _offered(vendor.truth(interval, granularity="PT1H")).items()}


def test_skipped_slot_is_replayed_an_hour_later(tmp_path: Path) -> None:
    rows = [(f"2024-03-31T{hour:02}:00:00", 10 + hour) for hour in range(24)]
    calls_by_hour = _by_hour(_write(tmp_path / "calls.csv", rows), "2024-03-30T23:00:00Z/2024-03-31T22:00:00Z")
    assert sum(calls_by_hour.values()) == sum(calls for _, calls in rows)
    assert calls_by_hour["31T00"] == 11
    assert calls_by_hour["31T01"] == 12 + 13


def test_repeated_slot_listed_once_is_split(tmp_path: Path) -> None:
    rows = [(f"2023-10-29T{hour:02}:00:00", 10 + hour) for hour in range(24)]
    rows[2] = (rows[2][0], 15)
    calls_by_hour = _by_hour(_write(tmp_path / "calls.csv", rows), "2023-10-28T22:00:00Z/2023-10-29T23:00:00Z")
    assert sum(calls_by_hour.values()) == sum(calls for _, calls in rows)
    assert [calls_by_hour[hour] for hour in ("28T23", "29T00", "29T01", "29T02")] == [11, 8, 7, 13]


def test_repeated_slot_listed_twice_is_not_split(tmp_path: Path) -> None:
    hours = [0, 1, 2, 2, 3]
    rows = [(f"2023-10-29T{hour:02}:00:00", 10 + index) for index, hour in enumerate(hours)]
    calls_by_hour = _by_hour(_write(tmp_path / "calls.csv", rows), "2023-10-28T22:00:00Z/2023-10-29T23:00:00Z")
    assert calls_by_hour == {"28T22": 10, "28T23": 11, "29T00": 12, "29T01": 13, "29T02": 14}


@given(
    minutes=st.sampled_from([6, 15, 30, 60, 120, 1440]),
    first=st.dates(date(2023, 10, 26), date(2023, 11, 2)),
    zone=st.sampled_from([BERLIN, "UTC", "America/New_York", "Australia/Lord_Howe"]),
)
def test_no_call_is_lost_or_duplicated_in_any_zone(tmp_path_factory, minutes, first, zone) -> None:
    slots = max(2, 5 * 1440 // minutes)
    rows = _grid(f"{first}T00:00:00", slots, minutes)
    path = _write(tmp_path_factory.mktemp("arrivals") / "calls.csv", rows)
    arrivals = read_arrivals(path, ZoneInfo(zone))
    assert arrivals.slot_length == timedelta(minutes=minutes)
    replayed = [slot for slots in arrivals.days.values() for slot in slots]
    assert sum(slot.calls for slot in replayed) == sum(calls for _, calls in rows)
    assert all(slot.begin_ms < slot.end_ms for slot in replayed)
    truth = create_truth(SimulatorSettings(arrivals=path, arrivals_zone=zone))
    assert sum(len(truth.day(day).queue) for day in arrivals.days) == sum(calls for _, calls in rows)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", 1, "start,calls"),
        ("when,calls\n2024-01-01T00:00:00,1\n", 1, "start,calls"),
        ("start,calls\n2024-01-01T00:00:00,1\n2024-01-01T01:00:00\n", 3, "1 columns"),
        ("start,calls\n2024-01-01T00:00:00,1\nyesterday,1\n", 3, "yesterday"),
        ("start,calls\n2024-01-01T00:00:00,1\n2024-01-01T01:00:00Z,1\n", 3, "offset"),
        ("start,calls\n2024-01-01T00:00:00,1\n2024-01-01T01:00:00,1.5\n", 3, "1.5"),
        ("start,calls\n2024-01-01T00:00:00,-1\n2024-01-01T01:00:00,1\n", 2, "-1"),
        ("start,calls\n2024-01-01T00:00:00,1\n2024-01-01T01:00:00,1\n2024-01-01T00:00:00,1\n", 4, "line 2"),
        (
            "start,calls\n2024-01-01T00:00:00,1\n2024-01-01T01:00:00,1\n2024-01-01T02:00:00,1\n2024-01-01T02:20:00,1\n",
            5,
            "grid",
        ),
    ],
)
def test_malformed_file_error_names_file_and_line(tmp_path: Path, text: str, line: int, message: str) -> None:
    path = tmp_path / "calls.csv"
    path.write_text(text)
    with pytest.raises(SimulatorError, match=message) as caught:
        create_app(SimulatorSettings(arrivals=path))
    assert f"{path}, line {line}:" in str(caught.value)


def test_unreadable_file_is_one_error(tmp_path: Path) -> None:
    wrong = tmp_path / "calls.csv.gz"
    wrong.write_text("start,calls\n")
    cut = tmp_path / "cut.csv.gz"
    cut.write_bytes(_write(tmp_path / "whole.csv.gz", _grid("2024-05-06T00:00:00", 500, 30)).read_bytes()[:200])
    text = tmp_path / "latin.csv"
    text.write_bytes(b"start,calls\n\xff\xfe,1\n")
    single = _write(tmp_path / "single.csv", [("2024-05-06T00:00:00", 1)])
    weekly = _write(tmp_path / "weekly.csv", [("2024-05-06T00:00:00", 1), ("2024-05-13T00:00:00", 1)])
    for path in (tmp_path / "none.csv", tmp_path, wrong, cut, text, single, weekly):
        with pytest.raises(SimulatorError) as caught:
            create_app(SimulatorSettings(arrivals=path))
        assert str(caught.value).startswith(f"{path}")
        assert "\n" not in str(caught.value)
