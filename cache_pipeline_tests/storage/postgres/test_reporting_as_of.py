"""Tests of the functions beside the views: the rows of a view as they were known at an instant."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from cache_pipeline.query.series import Series
from cache_pipeline.storage.postgres.history import PostgresHistory, open_history
from cache_pipeline.storage.postgres.migrate import migrate, pending_changes
from cache_pipeline_tests.storage.sample_rows import (
    HOUR,
    KEPT,
    KEPT_REPORT,
    NOW,
    REPORT,
    columns_of,
    hours,
    replacement,
)

READER = "an analyst"


@pytest.fixture
def stored(history_url: str) -> Iterator[PostgresHistory]:
    with open_history(history_url) as history:
        yield history


def total(url: str, source: str, *values: Any) -> Any:
    with psycopg.connect(url, row_factory=dict_row) as connection:
        row = connection.execute(f"SELECT sum(offered) AS total FROM {source}", values).fetchone()  # pyright: ignore[reportArgumentType]
    return row and row["total"]


def restate(history: PostgresHistory, offered: int, fetch: int) -> datetime:
    history.replace(replacement(hours(0, 3), series=KEPT, offered=offered, fetched_at=NOW + fetch * HOUR))
    return datetime.now(UTC)


def test_function_shows_the_view_as_it_was(stored: PostgresHistory, history_url: str):
    monday, tuesday = restate(stored, 1, 0), restate(stored, 5, 1)
    assert total(history_url, "reporting.kept") == 30
    assert total(history_url, "reporting.kept_as_of(%s)", monday) == 6
    assert total(history_url, "reporting.kept_as_of(%s)", tuesday) == 30
    assert total(history_url, "reporting.kept_as_of(%s, %s, %s)", monday, hours(1, 2).start, hours(1, 2).end) == 2
    with psycopg.connect(history_url) as connection:
        then = connection.execute("SELECT * FROM reporting.kept_as_of(%s)", [tuesday])
        names = [column.name for column in then.description or ()]
        now = connection.execute("SELECT * FROM reporting.kept")
        assert [column.name for column in now.description or ()] == names
        assert sorted(then.fetchall(), key=str) == sorted(now.fetchall(), key=str)


def test_instants_that_are_not_kept_are_refused(stored: PostgresHistory, history_url: str):
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="kept since its next fetch"):
        total(history_url, "reporting.kept_as_of(now())")
    restate(stored, 1, 0)
    for at, problem in (
        (datetime.now(UTC) - timedelta(days=1), "too early"),
        (datetime.now(UTC) + timedelta(days=1), "not an instant that has passed"),
        (None, "null is not an instant"),
    ):
        with pytest.raises(psycopg.errors.InvalidParameterValue, match=problem):
            total(history_url, "reporting.kept_as_of(%s::timestamptz)", at)


def test_only_readers_of_the_view_may_execute_it(stored: PostgresHistory, history_url: str):
    monday = restate(stored, 1, 0)
    with psycopg.connect(history_url) as connection:
        connection.execute(f'CREATE ROLE "{READER}"; GRANT USAGE ON SCHEMA reporting TO "{READER}"')
        connection.commit()
        connection.execute(f'SET ROLE "{READER}"')
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT * FROM reporting.kept_as_of(%s)", [monday])
        connection.rollback()
        connection.execute(f'GRANT SELECT ON reporting.kept TO "{READER}"')
        connection.commit()
        changed = KEPT_REPORT.model_copy(update={"description": "Changed"})
        migrate(history_url, [(changed, columns_of(changed))])
        connection.execute(f'SET ROLE "{READER}"')
        assert len(connection.execute("SELECT * FROM reporting.kept_as_of(%s)", [monday]).fetchall()) == 6
        connection.execute("RESET ROLE")
        connection.execute(f'DROP OWNED BY "{READER}"; DROP ROLE "{READER}"')
        connection.commit()


def test_reports_gain_and_lose_the_function_with_their_declaration(history_url: str):
    keeping = REPORT.model_copy(update={"time_travel": timedelta(days=1)})
    assert pending_changes(history_url, [(keeping, columns_of(keeping))]) == [
        "table history_versions.queue_hour is missing",
        "view reporting.queue_hour is missing or shows an earlier declaration",
    ]
    migrate(history_url, [(keeping, columns_of(keeping))])
    assert pending_changes(history_url, [(keeping, columns_of(keeping))]) == []
    wider = keeping.model_copy(update={"metrics": (*keeping.metrics, "shorts")})
    migrate(history_url, [(wider, columns_of(wider))])
    with open_history(history_url) as history:
        history.replace(replacement(hours(0, 1), series=Series(wider)))
        at = datetime.now(UTC)
        history.replace(replacement(hours(0, 1), series=Series(wider), offered=2, fetched_at=NOW + HOUR))
    assert total(history_url, "reporting.queue_hour_as_of(%s)", at) == 2
    migrate(history_url, [(REPORT, columns_of(REPORT))])
    with pytest.raises(psycopg.errors.UndefinedFunction):
        total(history_url, "reporting.queue_hour_as_of(now())")
