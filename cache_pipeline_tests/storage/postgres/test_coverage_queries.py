"""Tests of reading coverage alone, over an ordinary connection."""

from dataclasses import replace

import psycopg
import pytest

from cache_pipeline.errors import HistoryUnavailable
from cache_pipeline.query.verification import SecondLook
from cache_pipeline.storage.coverage import Coverage
from cache_pipeline.storage.postgres.coverage_queries import open_coverage
from cache_pipeline.storage.postgres.history import PostgresHistory
from cache_pipeline_tests.storage.sample_rows import HOUR, NOW, SERIES, hours, replacement

OTHER = replace(SERIES, tenant="other")


def test_same_coverage_is_read_as_with_the_rows(history: PostgresHistory, history_url: str):
    stored = replacement(hours(0, 6), hours(6, 12))
    history.replace(replace(stored, second_looks={SecondLook.unexpected: stored.provisional}))
    history.replace(replacement(hours(12, 18), fetched_at=NOW + HOUR))
    with open_coverage(history_url) as reader:
        for interval in (None, hours(0, 24)):
            assert reader.coverage(SERIES, interval) == history.coverage(SERIES, interval)
        assert reader.coverages([SERIES, OTHER]) == {
            SERIES.id: history.coverage(SERIES),
            OTHER.id: Coverage(recheck_delay=OTHER.report.freshness.recheck_delay),
        }


def test_missing_table_names_the_command(history_url: str):
    with psycopg.connect(history_url) as connection:
        connection.execute("DROP SCHEMA cache_pipeline_state CASCADE")
    with open_coverage(history_url) as reader, pytest.raises(HistoryUnavailable, match="cache-pipeline migrate"):
        reader.coverage(SERIES)


def test_lost_server_is_reported_as_unavailable(history_url: str):
    address, name = history_url.rsplit("/", 1)
    with open_coverage(history_url) as reader:
        with psycopg.connect(f"{address}/postgres", autocommit=True) as connection:
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
        with pytest.raises(HistoryUnavailable, match="CACHE_PIPELINE_POSTGRES_URL"):
            reader.coverage(SERIES)
