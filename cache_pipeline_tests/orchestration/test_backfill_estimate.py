"""Tests of backfill estimates, compared with what the backfill then takes."""

from collections.abc import Generator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from cache_pipeline.orchestration.backfill_estimate import ESTIMATE_JOB
from cache_pipeline.orchestration.run_tags import PROGRESS_TAG
from cache_pipeline_tests.orchestration.workbench import Bench, all_log_text, declaration, open_bench

FIRST, LAST = "2024-06-03", "2024-06-12"


@pytest.fixture
def one_query_bench(servers: pytest.MonkeyPatch, tmp_path: Path) -> Generator[Bench]:
    """Open a bench of a report whose answers are never suspect, so that each partition is one request."""
    with open_bench(servers, tmp_path, declaration(expected_groups=1)) as bench:
        yield bench


def _estimate(bench: Bench, instance: dg.DagsterInstance, **config: Any) -> dg.ExecuteInProcessResult:
    return (
        bench.definitions()
        .resolve_job_def(ESTIMATE_JOB)
        .execute_in_process(
            instance=instance,
            run_config={"ops": {"estimate": {"config": {"report": bench.report.name, **config}}}},
            raise_on_error=False,
        )
    )


def _observed(result: dg.ExecuteInProcessResult) -> dg.AssetObservation:
    assert result.success
    (event,) = [event for event in result.all_events if event.event_type is dg.DagsterEventType.ASSET_OBSERVATION]
    return event.asset_observation_data.asset_observation


def _totals(result: dg.ExecuteInProcessResult, bench: Bench) -> dict[str, Any]:
    events = [event.materialization for event in result.get_asset_materialization_events()]
    (first, *_) = [
        event for event in events if event.asset_key == bench.key("staged") and "upstream calls" in event.metadata
    ]
    return {name: value.value for name, value in first.metadata.items()}


def test_estimate_matches_the_calls_of_the_run(one_query_bench: Bench, instance: dg.DagsterInstance) -> None:
    bench = one_query_bench
    observed = _observed(_estimate(bench, instance, first=FIRST, last=LAST))
    assert observed.asset_key == bench.key("staged")
    assert observed.metadata["partitions"].value == 10
    assert observed.metadata["estimated queries"].value == 10
    assert observed.metadata["estimated calls"].value == 10
    assert observed.description is not None
    assert observed.description.startswith("10 partitions: 10 queries, about 10 calls and ")
    assert bench.count_queries() == 0

    ran = bench.run(instance, FIRST, LAST)
    assert bench.count_queries() == 10
    totals = _totals(ran, bench)
    assert totals["estimated calls"] == totals["upstream calls"] == 10
    assert "calls by partition" in totals
    assert "10 partitions: 10 queries, about 10 calls" in all_log_text(instance, ran.run_id)


def test_estimate_omits_stored_partitions_unless_refetching(bench: Bench, instance: dg.DagsterInstance) -> None:
    bench.run(instance, FIRST, "2024-06-07")
    half = _observed(_estimate(bench, instance, first=FIRST, last=LAST))
    assert (half.metadata["partitions"].value, half.metadata["estimated queries"].value) == (10, 5)
    stored = _observed(_estimate(bench, instance, first=FIRST, last="2024-06-07"))
    assert stored.metadata["estimated queries"].value == 0
    assert stored.description == "5 partitions: everything is stored already, no queries are needed"
    refetched = _observed(_estimate(bench, instance, first=FIRST, last="2024-06-07", refetch=True))
    assert refetched.metadata["estimated queries"].value == 5


def test_estimate_includes_minutes_waiting_for_quota(
    bench: Bench, instance: dg.DagsterInstance, servers: pytest.MonkeyPatch
) -> None:
    url = str(bench.admin.base_url).rstrip("/")
    account = '{"base_url": "%s", "login_url": "%s/oauth/token", "rate_limit": 10, "monthly_requests": 1000, "clients": [{"client_id": "alpha", "client_secret": "s"}]}'
    servers.setenv("CACHE_PIPELINE_ACCOUNTS__GENESYS__MAIN", account % (url, url))
    observed = _observed(_estimate(bench, instance, first="2024-01-01", last="2024-04-09"))
    assert observed.metadata["estimated queries"].value == 100
    assert "% of the month's 1,000 requests; " in observed.description
    calls, share = (observed.metadata[name].value for name in ("estimated calls", "share of the month's requests"))
    assert share == pytest.approx(calls / 1000, rel=0.01)
    # Ten requests a minute, minus the share that the backfill lane leaves to the other lanes.
    assert observed.metadata["estimated minutes"].value >= 9
    assert (
        observed.metadata["estimated minutes waiting for quota"].value == observed.metadata["estimated minutes"].value
    )


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"first": "2023-01-01"}, "calls_hour has no partition 2023-01-01; its first is 2024-01-01"),
        ({"first": LAST, "last": FIRST}, "2024-06-12 is after 2024-06-03"),
        ({"first": FIRST, "last": LAST, "lane": "fast"}, "lane 'fast' is unknown"),
        ({"report": "nothing_hour"}, "there is no report 'nothing_hour'"),
    ],
)
def test_invalid_estimate_fails_with_one_line(
    bench: Bench, instance: dg.DagsterInstance, config: dict[str, Any], message: str
) -> None:
    result = _estimate(bench, instance, **config)
    (failed,) = [event for event in result.all_events if event.is_step_failure]
    error = failed.step_failure_data.user_failure_data
    assert error is not None
    assert message in str(error.description)


def test_run_progress_is_a_tag(bench: Bench, instance: dg.DagsterInstance) -> None:
    ran = bench.run(instance, FIRST, LAST)
    run = instance.get_run_by_id(ran.run_id)
    assert run is not None
    assert run.tags[PROGRESS_TAG].startswith("10 of 10 partitions in ")
