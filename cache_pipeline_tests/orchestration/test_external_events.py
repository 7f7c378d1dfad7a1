"""Tests of the Dagster events for what workers of the API store."""

import asyncio
from contextlib import nullcontext
from datetime import timedelta
from unittest.mock import Mock

import dagster as dg
import pytest

from cache_pipeline.bootstrap.services import open_service
from cache_pipeline.fetch.write_events import OnStored
from cache_pipeline.orchestration.external_events import record_external_events, record_in_dagster
from cache_pipeline.query.interval import Interval
from cache_pipeline.settings import read_settings
from cache_pipeline_tests.orchestration.workbench import Bench, materialized

DAY = "2024-06-10"


def _answer(bench: Bench, on_stored: OnStored, *intervals: Interval) -> None:
    async def answer() -> None:
        async with open_service(read_settings(), on_stored) as service:
            for interval in intervals:
                await service.answer(bench.report, interval)

    asyncio.run(answer())


def test_day_fetched_by_api_is_materialised_once_complete(bench: Bench, instance: dg.DagsterInstance) -> None:
    record = record_in_dagster(lambda: instance, read_settings(), lambda _report: bench.coverage())
    day = bench.interval(DAY)
    noon = day.start + timedelta(hours=12)
    _answer(bench, record, Interval(day.start, noon))
    key = bench.key("history")
    assert materialized(instance, key) == set()
    (observation,) = instance.fetch_observations(key, limit=10).records
    assert observation.partition_key == DAY

    _answer(bench, record, Interval(noon, day.end))
    assert materialized(instance, key) == {DAY}
    (record_of_day,) = instance.fetch_materializations(key, limit=10).records
    assert record_of_day.asset_materialization is not None
    metadata = record_of_day.asset_materialization.metadata
    assert metadata["requested by"].value == "API"
    assert metadata["interval"].value == str(Interval(noon, day.end))
    assert metadata["rows"].value in range(20, 37)
    assert record_of_day.run_id == ""


def test_instance_is_opened_by_first_event_and_once(
    bench: Bench, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Mock(return_value=nullcontext(instance))
    monkeypatch.setattr(dg.DagsterInstance, "get", opened)
    day = bench.interval(DAY)
    noon = day.start + timedelta(hours=12)
    with record_external_events(read_settings()) as record:
        assert not opened.called
        _answer(bench, record, Interval(day.start, noon), Interval(noon, day.end))
    assert opened.call_count == 1
    assert materialized(instance, bench.key("history")) == {DAY}


def test_unreachable_instance_costs_no_answer(
    bench: Bench, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_event: object) -> None:
        raise ConnectionError("storage is unreachable")

    monkeypatch.setattr(instance, "report_runless_asset_event", fail)
    record = record_in_dagster(lambda: instance, read_settings(), lambda _report: bench.coverage())
    _answer(bench, record, bench.interval(DAY))
    assert bench.coverage().final.covers(bench.interval(DAY))
    assert "calls_hour: could not record the stored rows in Dagster" in caplog.text
