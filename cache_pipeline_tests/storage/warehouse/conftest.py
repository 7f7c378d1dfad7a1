"""What analysts see of history, to compare with what was exported."""

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

#: The columns that views and warehouses have in common.
COLUMNS = "interval_start, interval_end, queue_id, offered, answered, longest, is_final"

Rows = list[tuple[Any, ...]]


@pytest.fixture
def view_rows(history_url: str) -> Callable[[], Rows]:
    """Return a function that reads the rows that analysts see."""

    def read() -> Rows:
        with psycopg.connect(history_url) as connection:
            query = f"SELECT {COLUMNS} FROM reporting.queue_hour"
            return sorted(connection.execute(query).fetchall(), key=str)  # pyright: ignore[reportArgumentType]

    return read
