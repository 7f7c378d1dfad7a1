"""Tests of the cursor that lets a sensor skip reports whose partitions had all passed."""

from datetime import UTC, datetime, timedelta

import pytest

from cache_pipeline.orchestration.cursors import AllPassedCursor

REPORTS = {f"report_{number}": number for number in range(120)}
NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
LATEST = dict.fromkeys(REPORTS, "7:SUCCEEDED")


def _all_passed() -> AllPassedCursor:
    passed = AllPassedCursor()
    for name in REPORTS:
        passed.mark_passed(name, LATEST[name])
    return passed


def test_report_that_was_never_checked_is_skipped() -> None:
    assert list(AllPassedCursor().reports_to_examine(REPORTS, {"report_5": "1:FAILED"}, NOW)) == [5]


def test_passed_report_is_examined_after_a_new_check() -> None:
    passed = AllPassedCursor.parse(_all_passed().serialize())
    unchanged = set(passed.reports_to_examine(REPORTS, LATEST, NOW))
    changed = set(passed.reports_to_examine(REPORTS, LATEST | {"report_7": "8:FAILED", "report_8": "7:FAILED"}, NOW))
    assert len(unchanged) == 2
    assert changed - unchanged == {7, 8} - unchanged


def test_every_report_is_examined_within_an_hour() -> None:
    passed = _all_passed()
    examined = [
        each
        for minute in range(60)
        for each in passed.reports_to_examine(REPORTS, LATEST, NOW + timedelta(minutes=minute))
    ]
    assert sorted(examined) == list(range(120))


@pytest.mark.parametrize("cursor", [None, "", "not json", "[1]", '"text"'])
def test_cursor_of_another_version_is_ignored(cursor: str | None) -> None:
    assert len(list(AllPassedCursor.parse(cursor).reports_to_examine(REPORTS, LATEST, NOW))) == 120
