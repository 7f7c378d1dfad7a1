"""The examples of docs/analysts.md, in four languages, have the same names, sums and measure, and those of the rows stored."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pytest

from cache_pipeline.query.names import ListedName
from cache_pipeline.query.schema import rows_to_table, to_arrow_schema
from cache_pipeline.query.series import Series
from cache_pipeline.storage.ports.names import NameScope
from cache_pipeline.storage.postgres.history import open_history
from cache_pipeline.storage.postgres.migrate import migrate
from cache_pipeline.storage.postgres.names import open_names
from cache_pipeline_tests.query.declared import declared
from cache_pipeline_tests.storage.sample_rows import columns_of, hours, replacement, table

PAGE = (Path(__file__).parents[2] / "docs" / "analysts.md").read_text()
REPORT = declared(
    name="queue_day",
    time_zone="UTC",
    group_by=["queueId"],
    metrics=["offered", "abandoned"],
    measures={"abandon_rate": {"formula": "abandoned / offered", "kind": "share"}},
)
LISTED = {"q1": ListedName("Billing"), "q2": ListedName("Orders")}
COLUMNS = ["queue_name", "offered", "abandon_rate"]


def example(heading: str) -> str:
    found = re.search(rf"### {heading}\n\n```\w+\n(.*?)```", PAGE, re.DOTALL)
    assert found, heading
    return found[1]


def stored_rows() -> pa.Table:
    columns = columns_of(REPORT)
    rows = table(hours(0, 6), report=REPORT).to_pylist()
    for number, row in enumerate(rows):
        row["offered"], row["abandoned"] = 10 + 7 * number % 13, number % 4
    return rows_to_table(rows, to_arrow_schema(columns))


@pytest.fixture
def figures(postgres_database: str, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, float]]:
    """Store rows and names, and return what the examples ask for."""
    monkeypatch.setenv("CACHE_PIPELINE_POSTGRES_URL", postgres_database)
    migrate(postgres_database, [(REPORT, columns_of(REPORT))], lookups={REPORT.name: {"queue_id": "queues"}})
    rows = stored_rows()
    with open_history(postgres_database) as history:
        history.replace(replacement(hours(0, 6), series=Series(REPORT), rows=rows))
        # Not final yet, and so in no answer.
        history.replace(replacement(None, hours(6, 8), series=Series(REPORT), offered=1_000))
    with open_names(postgres_database) as names:
        names.update(NameScope("default", REPORT.account_id), "queues", LISTED, datetime(2026, 1, 1, tzinfo=UTC))
    found: list[tuple[str, int, float]] = []
    for queue, name in LISTED.items():
        own = [row for row in rows.to_pylist() if row["queue_id"] == queue]
        offered, abandoned = (sum(row[metric] for row in own) for metric in ("offered", "abandoned"))
        found.append((name.name, offered, abandoned / offered))
    return found


def run_sql(code: str, url: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(code.encode()).fetchall()


def run_python(read: Callable[[Any], list[tuple[Any, ...]]]) -> Callable[[str, str], list[tuple[Any, ...]]]:
    def run(code: str, _url: str) -> list[tuple[Any, ...]]:
        names: dict[str, Any] = {}
        exec(code, names)
        return read(names["answer"])

    return run


EXAMPLES: dict[str, Callable[[str, str], list[tuple[Any, ...]]]] = {
    "SQL": run_sql,
    "pandas": run_python(lambda answer: list(answer[COLUMNS].itertuples(index=False, name=None))),
    "Polars": run_python(lambda answer: answer.select(COLUMNS).rows()),
    "DuckDB": run_python(lambda answer: answer.select(*COLUMNS).fetchall()),
}


@pytest.mark.parametrize("heading", EXAMPLES)
def test_example_gives_the_figures_of_the_stored_rows(
    heading: str, postgres_database: str, figures: list[tuple[str, int, float]]
) -> None:
    answer = sorted(EXAMPLES[heading](example(heading), postgres_database))
    assert [row[:2] for row in answer] == [row[:2] for row in figures]
    assert [row[2] for row in answer] == pytest.approx([row[2] for row in figures])


def test_measure_of_each_row_is_the_declared_one(postgres_database: str, figures: list[tuple[str, int, float]]) -> None:
    assert figures
    query = "SELECT offered, abandoned, abandon_rate FROM reporting.queue_day"
    rows = run_sql(query, postgres_database)
    assert len(rows) == 16
    assert [row[2] for row in rows] == pytest.approx([row[1] / row[0] for row in rows])
