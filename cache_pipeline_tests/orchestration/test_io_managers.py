"""Each tier's IO manager gives a downstream asset back what it wrote."""

import json
from typing import Any

import dagster as dg

from cache_pipeline.bootstrap import report_columns
from cache_pipeline.query.schema import arrow_schema
from cache_pipeline.rows.rows import Rows
from cache_pipeline_tests.orchestration.workbench import Bench, failures

DAYS = ["2024-06-10", "2024-06-11"]


def _loaded(bench: Bench, instance: dg.DagsterInstance, layer: str, first: str, last: str) -> Any:
    """What an asset downstream of a tier is given, in a run of its own."""
    heard: list[Any] = []

    @dg.multi_asset(
        specs=[dg.AssetSpec("reader", deps=[bench.key(layer)], partitions_def=bench.partitions)],
        ins={"held": dg.AssetIn(bench.key(layer))},
        backfill_policy=dg.BackfillPolicy.single_run(),
    )
    def reader(held: Any) -> None:
        heard.append(held)

    defs = dg.Definitions.merge(bench.definitions(), dg.Definitions(assets=[reader]))
    result = defs.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=instance,
        asset_selection=[dg.AssetKey("reader")],
        tags={"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last},
        raise_on_error=False,
    )
    assert result.success, failures(result)
    (held,) = heard
    return held


def test_what_was_written_is_loaded_back_from_every_tier(bench: Bench, instance: dg.DagsterInstance) -> None:
    assert bench.run(instance, *DAYS).success
    whole = bench.interval(*DAYS)
    truth = bench.truth(whole)

    held = _loaded(bench, instance, "history", *DAYS)
    assert isinstance(held, Rows)
    history = held.to_table()
    assert history.schema == arrow_schema(report_columns(bench.report))
    assert sum(row["n_offered"] for row in history.to_pylist()) == truth

    edge = _loaded(bench, instance, "edge", *DAYS)
    assert edge.schema.names == history.schema.names
    assert edge.cast(history.schema).sort_by("interval_start").equals(history.sort_by("interval_start"))

    hot = _loaded(bench, instance, "hot", *DAYS)
    assert list(hot) == [bench.interval(day) for day in DAYS]
    offered = 0
    for interval, body in hot.items():
        answer = json.loads(body)
        assert answer["interval"] == str(interval)
        offered += sum(row[answer["columns"].index("n_offered")] for row in answer["rows"])
    assert offered == truth

    one_day = _loaded(bench, instance, "history", DAYS[1], DAYS[1])
    assert sum(one_day.to_table()["n_offered"].to_pylist()) == bench.truth(bench.interval(DAYS[1]))
    one_day_of_edge = _loaded(bench, instance, "edge", DAYS[0], DAYS[0])
    day = bench.interval(DAYS[0])
    assert one_day_of_edge.num_rows > 40
    assert all(day.contains_instant(row["interval_start"]) for row in one_day_of_edge.to_pylist())
