"""Of a thousand reports a sensor looks at those alone of which something was checked since all had passed."""

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


def test_a_report_that_was_never_checked_is_not_looked_at() -> None:
    assert list(AllPassedCursor().reports_to_examine(REPORTS, {"report_5": "1:FAILED"}, NOW)) == [5]


def test_what_passed_is_looked_at_again_as_soon_as_something_was_checked_or_a_check_has_ended() -> None:
    passed = AllPassedCursor.parse(_all_passed().serialize())
    at_rest = set(passed.reports_to_examine(REPORTS, LATEST, NOW))
    changed = set(passed.reports_to_examine(REPORTS, LATEST | {"report_7": "8:FAILED", "report_8": "7:FAILED"}, NOW))
    assert len(at_rest) == 2
    assert changed - at_rest == {7, 8} - at_rest


def test_within_an_hour_every_report_is_looked_at_whatever_was_noted() -> None:
    passed = _all_passed()
    seen = [
        each
        for minute in range(60)
        for each in passed.reports_to_examine(REPORTS, LATEST, NOW + timedelta(minutes=minute))
    ]
    assert sorted(seen) == list(range(120))


@pytest.mark.parametrize("cursor", [None, "", "not json", "[1]", '"text"'])
def test_a_cursor_of_another_version_is_forgotten(cursor: str | None) -> None:
    assert len(list(AllPassedCursor.parse(cursor).reports_to_examine(REPORTS, LATEST, NOW))) == 120
