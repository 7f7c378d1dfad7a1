"""What a backfill is said to take before it is launched, held against what it then takes."""

from collections.abc import Generator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from cache_pipeline.orchestration.backfill_estimate import ESTIMATE_JOB
from cache_pipeline.orchestration.run_tags import PROGRESS_TAG
from cache_pipeline_tests.orchestration.workbench import Bench, all_words, bench_of, declared

FIRST, LAST = "2024-06-03", "2024-06-12"


@pytest.fixture
def sure_bench(servers: pytest.MonkeyPatch, tmp_path: Path) -> Generator[Bench]:
    """A report whose every answer is taken at its word, in one request."""
    with bench_of(servers, tmp_path, declared(expected_groups=1)) as bench:
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


def test_a_backfill_takes_the_calls_it_was_said_to_take_and_says_them_beside(
    sure_bench: Bench, instance: dg.DagsterInstance
) -> None:
    bench = sure_bench
    seen = _observed(_estimate(bench, instance, first=FIRST, last=LAST))
    assert seen.asset_key == bench.key("staged")
    assert seen.metadata["partitions"].value == 10
    assert seen.metadata["estimated queries"].value == 10
    assert seen.metadata["estimated calls"].value == 10
    assert seen.description is not None
    assert seen.description.startswith("10 partitions: 10 queries, about 10 calls and ")
    assert bench.asked() == 0

    ran = bench.run(instance, FIRST, LAST)
    assert bench.asked() == 10
    totals = _totals(ran, bench)
    assert totals["estimated calls"] == totals["upstream calls"] == 10
    assert "calls by partition" in totals
    assert "10 partitions: 10 queries, about 10 calls" in all_words(instance, ran.run_id)


def test_what_is_held_is_not_estimated_again_unless_it_is_to_be_asked_anew(
    bench: Bench, instance: dg.DagsterInstance
) -> None:
    bench.run(instance, FIRST, "2024-06-07")
    half = _observed(_estimate(bench, instance, first=FIRST, last=LAST))
    assert (half.metadata["partitions"].value, half.metadata["estimated queries"].value) == (10, 5)
    held = _observed(_estimate(bench, instance, first=FIRST, last="2024-06-07"))
    assert held.metadata["estimated queries"].value == 0
    assert held.description == "5 partitions: everything is stored already, no queries are needed"
    anew = _observed(_estimate(bench, instance, first=FIRST, last="2024-06-07", refetch=True))
    assert anew.metadata["estimated queries"].value == 5


def test_a_backfill_larger_than_the_quota_is_told_its_minutes(
    bench: Bench, instance: dg.DagsterInstance, servers: pytest.MonkeyPatch
) -> None:
    url = str(bench.admin.base_url).rstrip("/")
    account = '{"base_url": "%s", "login_url": "%s/oauth/token", "requests_per_window": 10, "clients": [{"client_id": "alpha", "client_secret": "s"}]}'
    servers.setenv("CACHE_PIPELINE_GENESYS", account % (url, url))
    seen = _observed(_estimate(bench, instance, first="2024-01-01", last="2024-04-09"))
    assert seen.metadata["estimated queries"].value == 100
    # Ten a minute, less what the backfill lane leaves to the others.
    assert seen.metadata["estimated minutes"].value >= 9
    assert seen.metadata["estimated minutes waiting for quota"].value == seen.metadata["estimated minutes"].value


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"first": "2023-01-01"}, "calls_hour has no partition 2023-01-01; its first is 2024-01-01"),
        ({"first": LAST, "last": FIRST}, "2024-06-12 is after 2024-06-03"),
        ({"first": FIRST, "last": LAST, "lane": "fast"}, "lane 'fast' is unknown"),
        ({"report": "nothing_hour"}, "there is no report 'nothing_hour'"),
    ],
)
def test_an_estimate_of_what_there_is_not_says_so_in_one_line(
    bench: Bench, instance: dg.DagsterInstance, config: dict[str, Any], told: str
) -> None:
    result = _estimate(bench, instance, **config)
    (failed,) = [event for event in result.all_events if event.is_step_failure]
    error = failed.step_failure_data.user_failure_data
    assert error is not None
    assert told in str(error.description)


def test_a_run_carries_how_far_it_is_as_a_tag(bench: Bench, instance: dg.DagsterInstance) -> None:
    ran = bench.run(instance, FIRST, LAST)
    run = instance.get_run_by_id(ran.run_id)
    assert run is not None
    assert run.tags[PROGRESS_TAG].startswith("10 of 10 partitions in ")
