"""Tests that each tier's IO manager loads what it wrote."""

import json
from typing import Any

import dagster as dg

from cache_pipeline.bootstrap.reports import report_columns
from cache_pipeline.query.schema import to_arrow_schema
from cache_pipeline.rows.rows import Rows
from cache_pipeline_tests.orchestration.workbench import Bench, step_failures

DAYS = ["2024-06-10", "2024-06-11"]


def _load(bench: Bench, instance: dg.DagsterInstance, layer: str, first: str, last: str) -> Any:
    """Run an asset downstream of a tier; return the value of its input."""
    loaded: list[Any] = []

    @dg.multi_asset(
        specs=[dg.AssetSpec("reader", deps=[bench.key(layer)], partitions_def=bench.partitions)],
        ins={"value": dg.AssetIn(bench.key(layer))},
        backfill_policy=dg.BackfillPolicy.single_run(),
    )
    def reader(value: Any) -> None:
        loaded.append(value)

    defs = dg.Definitions.merge(bench.definitions(), dg.Definitions(assets=[reader]))
    result = defs.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=instance,
        asset_selection=[dg.AssetKey("reader")],
        tags={"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last},
        raise_on_error=False,
    )
    assert result.success, step_failures(result)
    (value,) = loaded
    return value


def test_every_tier_loads_what_was_written(bench: Bench, instance: dg.DagsterInstance) -> None:
    assert bench.run(instance, *DAYS).success
    full_interval = bench.interval(*DAYS)
    expected = bench.vendor_total(full_interval)

    rows = _load(bench, instance, "history", *DAYS)
    assert isinstance(rows, Rows)
    history = rows.to_table()
    assert history.schema == to_arrow_schema(report_columns(bench.report))
    assert sum(row["n_offered"] for row in history.to_pylist()) == expected

    edge = _load(bench, instance, "edge", *DAYS)
    assert edge.schema.names == history.schema.names
    assert edge.cast(history.schema).sort_by("interval_start").equals(history.sort_by("interval_start"))

    hot = _load(bench, instance, "hot", *DAYS)
    assert list(hot) == [bench.interval(day) for day in DAYS]
    offered = 0
    for interval, body in hot.items():
        answer = json.loads(body)
        assert answer["interval"] == str(interval)
        offered += sum(row[answer["columns"].index("n_offered")] for row in answer["rows"])
    assert offered == expected

    one_day = _load(bench, instance, "history", DAYS[1], DAYS[1])
    assert sum(one_day.to_table()["n_offered"].to_pylist()) == bench.vendor_total(bench.interval(DAYS[1]))
    one_day_of_edge = _load(bench, instance, "edge", DAYS[0], DAYS[0])
    day = bench.interval(DAYS[0])
    assert one_day_of_edge.num_rows > 40
    assert all(day.contains_instant(row["interval_start"]) for row in one_day_of_edge.to_pylist())
