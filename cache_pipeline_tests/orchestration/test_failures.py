"""Tests of failing runs: what they publish, what their errors say, and whether a retry may help."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest

from cache_pipeline.errors import (
    LoginRefused,
    QueryError,
    SchemaMismatch,
    SettingsError,
    UpstreamJobFailed,
    UpstreamRefused,
    UpstreamUnreachable,
)
from cache_pipeline.fetch.staging import Staging
from cache_pipeline.orchestration.resources import reported_failures
from cache_pipeline.query.interval import IntervalSet
from cache_pipeline.rows.rows import Rows
from cache_pipeline.storage.postgres.history import HistoryUnavailable
from cache_pipeline_tests.orchestration.workbench import (
    STAGED_CHECKS,
    TIERS,
    Bench,
    all_log_text,
    evaluations,
    materialized,
    recorded_evaluations,
    set_account,
    step_failures,
)

DAYS = ["2024-06-10", "2024-06-11", "2024-06-12"]


def _assert_nothing_published(bench: Bench, instance: dg.DagsterInstance) -> None:
    for layer in TIERS:
        assert materialized(instance, bench.key(layer)) == set()
    assert bench.coverage().final | bench.coverage().provisional == IntervalSet()
    assert bench.edge().manifest().datasets == {}


def test_relaunch_fetches_only_the_failed_partitions(one_query_bench: Bench, instance: dg.DagsterInstance) -> None:
    bench = one_query_bench
    hundred = [key for key in bench.partitions.get_partition_keys() if key >= "2024-03-01"][:100]
    bench.fail_partitions(hundred[0], hundred[4])
    result = bench.run(instance, hundred[0], hundred[-1])
    assert not result.success
    # A failed day is asked for in halves, down to one hour.
    assert 100 <= bench.count_queries() <= 95 + 5 * 9
    assert any(
        f"5 of 100 partitions of queue_hour failed; {hundred[0]}: upstream job" in text and "a fault on demand" in text
        for _, text, _ in step_failures(result)
    )
    done = materialized(instance, bench.key("staged"))
    assert len(done) == 95
    assert hundred[0] not in done
    for layer in TIERS:
        assert materialized(instance, bench.key(layer)) == done
    passed = {name: _passed(instance, bench.check(name)) for name in STAGED_CHECKS}
    assert passed == dict.fromkeys(STAGED_CHECKS, done)
    assert [one.passed for one in recorded_evaluations(instance, bench.check("tiers_agree", "edge"))] == [True]
    assert bench.coverage().final == IntervalSet(bench.interval(key) for key in done)

    bench.clear_faults()
    relaunched = bench.run(instance, hundred[0], hundred[-1])
    assert relaunched.success, step_failures(relaunched)
    assert bench.count_queries() == 5
    for layer in ("staged", *TIERS):
        assert materialized(instance, bench.key(layer)) == set(hundred)
    assert bench.coverage().final == IntervalSet([bench.interval(hundred[0], hundred[-1])])


def _passed(instance: dg.DagsterInstance, check: dg.AssetCheckKey) -> set[str | None]:
    return {one.partition for one in recorded_evaluations(instance, check) if one.passed}


def test_staged_partitions_keep_metadata_after_a_failure(job_bench: Bench, instance: dg.DagsterInstance) -> None:
    job_bench.fail_partitions(DAYS[0])
    job_bench.run(instance, DAYS[0], DAYS[-1])
    records = instance.fetch_materializations(job_bench.key("staged"), limit=10).records
    events = [record.asset_materialization for record in records if record.asset_materialization]
    assert {event.partition for event in events} == set(DAYS[1:])
    for event in events:
        assert event.metadata["dagster/partition_row_count"].value in range(40, 73)
        assert event.metadata["calls"].value in range(3, 12)


def test_missing_account_error_names_settings(
    bench: Bench, instance: dg.DagsterInstance, servers: pytest.MonkeyPatch
) -> None:
    servers.delenv("CACHE_PIPELINE_ACCOUNTS__GENESYS__MAIN")
    with pytest.raises(dg.Failure) as caught:
        bench.run(instance, DAYS[0], raise_on_error=True)
    assert caught.value.description == (
        "calls_hour needs genesys/main, which has no account: set CACHE_PIPELINE_ACCOUNTS__GENESYS__MAIN"
    )
    assert not caught.value.allow_retries


def test_refused_login_error_is_one_line_without_secrets(
    bench: Bench, instance: dg.DagsterInstance, servers: pytest.MonkeyPatch
) -> None:
    wrong = {"alpha": "wrong-secret-58c1", "beta": "wrong-secret-91d4"}
    set_account(servers, "genesys", str(bench.admin.base_url).rstrip("/"), wrong)
    with pytest.raises(dg.Failure) as caught:
        bench.run(instance, DAYS[0], raise_on_error=True)
    text = str(caught.value.description)
    assert text.startswith(f"1 of 1 partitions of calls_hour failed; {DAYS[0]}: login refused for every OAuth client")
    assert "\n" not in text
    assert not caught.value.allow_retries
    (run,) = instance.get_runs()
    log = all_log_text(instance, run.run_id)
    assert "login refused" in log
    assert "wrong-secret" not in log
    _assert_nothing_published(bench, instance)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("CACHE_PIPELINE_REDIS_URL", None, "CACHE_PIPELINE_REDIS_URL is not set"),
        (
            "CACHE_PIPELINE_ACCOUNTS__GENESYS__MAIN",
            '{"base_url": "nowhere"}',
            "CACHE_PIPELINE_ACCOUNTS__GENESYS__MAIN__",
        ),
        ("CACHE_PIPELINE_TENANT", "NOT A TENANT", "CACHE_PIPELINE_TENANT"),
        ("CACHE_PIPELINE_ACCOUNTS__GENESYS__MAIN__RETENTION_DAYS", "100", "genesys keeps nothing from before"),
    ],
)
def test_wrong_setting_of_the_executing_process_is_named(
    bench: Bench,
    instance: dg.DagsterInstance,
    servers: pytest.MonkeyPatch,
    name: str,
    value: str | None,
    message: str,
) -> None:
    job = bench.definitions().resolve_job_def("calls_hour_job")
    if value is None:
        servers.delenv(name)
    else:
        servers.setenv(name, value)
    result = job.execute_in_process(instance=instance, partition_key=DAYS[0], raise_on_error=False)
    assert not result.success
    assert any(message in text for _, text, _ in step_failures(result))
    assert bench.count_queries() == 0


@pytest.mark.parametrize(
    ("name", "scheme", "message", "kind"),
    [
        (
            "CACHE_PIPELINE_POSTGRES_URL",
            "postgresql",
            "PostgreSQL at 127.0.0.1 cannot be reached",
            "HistoryUnavailable",
        ),
        ("CACHE_PIPELINE_REDIS_URL", "redis", "the shared quota of genesys/main is unavailable", ""),
    ],
)
def test_unreachable_server_error_is_retryable_without_password(
    bench: Bench,
    instance: dg.DagsterInstance,
    servers: pytest.MonkeyPatch,
    name: str,
    scheme: str,
    message: str,
    kind: str,
) -> None:
    servers.setenv(name, f"{scheme}://someone:password-3c7e@127.0.0.1:1/0")
    with pytest.raises(dg.Failure) as caught:
        bench.run(instance, DAYS[0], raise_on_error=True)
    assert message in str(caught.value.description)
    assert caught.value.allow_retries
    assert not kind or caught.value.metadata["error"].value == kind
    (run,) = instance.get_runs()
    assert "password-3c7e" not in all_log_text(instance, run.run_id)
    assert bench.count_queries() == 0


def test_unknown_lane_tag_fails_before_any_query(bench: Bench, instance: dg.DagsterInstance) -> None:
    result = bench.run(instance, DAYS[0], tags={"cache_pipeline/lane": "fast"})
    assert any("cache_pipeline/lane='fast': unknown lane" in text for _, text, _ in step_failures(result))
    assert bench.count_queries() == 0


@pytest.fixture
def staged(bench: Bench, instance: dg.DagsterInstance) -> tuple[Bench, Staging]:
    """Stage a day by a run that ends before it publishes."""
    assert bench.run(instance, DAYS[0], layer="staged").success
    _assert_nothing_published(bench, instance)
    bench.count_queries()
    return bench, Staging(bench.data / "staged")


def test_day_failing_a_check_does_not_block_others(staged: tuple[Bench, Staging], instance: dg.DagsterInstance) -> None:
    bench, staging = staged
    partition = staging.read(bench.series, DAYS[0], bench.interval(DAYS[0]))
    assert partition is not None
    ahead = tuple(replace(chunk, watermark=partition.fetched_at + timedelta(hours=1)) for chunk in partition.chunks)
    staging.write(bench.series, replace(partition, chunks=ahead))
    result = bench.run(instance, DAYS[0], DAYS[-1])
    assert not result.success
    for layer in TIERS:
        assert materialized(instance, bench.key(layer)) == set(DAYS[1:])
    results = {one.partition: one.passed for one in evaluations(result, bench.check("watermark"))}
    assert results == {DAYS[0]: False, DAYS[1]: True, DAYS[2]: True, None: False}
    assert bench.coverage().final == IntervalSet([bench.interval(DAYS[1], DAYS[-1])])


def test_staged_day_failing_a_check_is_never_published(
    staged: tuple[Bench, Staging], instance: dg.DagsterInstance
) -> None:
    bench, staging = staged
    partition = staging.read(bench.series, DAYS[0], bench.interval(DAYS[0]))
    assert partition is not None
    short = partition.rows.to_table().slice(0, partition.rows.num_rows - 5)
    staging.write(bench.series, replace(partition, rows=Rows.from_table(short)))

    result = bench.run(instance, DAYS[0])
    assert not result.success
    of_day, of_all = evaluations(result, bench.check("completeness"))
    assert (of_day.partition, of_day.passed, of_all.passed) == (DAYS[0], False, False)
    assert of_day.description is not None
    assert of_day.description.startswith("1 of 1 chunks have fewer rows staged than the vendor returned")
    assert of_all.description == f"1 of 1 partitions fail; {DAYS[0]}: {of_day.description}"
    assert {step for step, _, _ in step_failures(result)} == {"staged_checks__calls_hour"}
    _assert_nothing_published(bench, instance)
    assert bench.count_queries() == 0


def test_watermark_in_the_future_blocks_publishing(staged: tuple[Bench, Staging], instance: dg.DagsterInstance) -> None:
    bench, staging = staged
    partition = staging.read(bench.series, DAYS[0], bench.interval(DAYS[0]))
    assert partition is not None
    ahead = tuple(replace(chunk, watermark=partition.fetched_at + timedelta(hours=1)) for chunk in partition.chunks)
    staging.write(bench.series, replace(partition, chunks=ahead))
    result = bench.run(instance, DAYS[0])
    results = {
        name: {one.passed for one in evaluations(result, bench.check(name))} for name in ("completeness", "watermark")
    }
    assert results == {"completeness": {True}, "watermark": {False}}
    _assert_nothing_published(bench, instance)


def test_history_without_staged_partitions_fails(bench: Bench, instance: dg.DagsterInstance) -> None:
    with pytest.raises(
        dg.Failure, match=f"1 partitions are not staged, {DAYS[0]} first: materialise calls_hour/staged"
    ):
        bench.run(instance, DAYS[0], layer="history", raise_on_error=True)
    assert bench.count_queries() == 0


def test_unwritable_data_folder_is_named(
    bench: Bench, instance: dg.DagsterInstance, servers: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    servers.setenv("CACHE_PIPELINE_DATA_DIR", str(tmp_path / "file"))
    result = bench.run(instance, DAYS[0], layer="staged")
    assert any(
        "cannot be written" in text and "CACHE_PIPELINE_DATA_DIR" in text for _, text, _ in step_failures(result)
    )


@pytest.mark.parametrize(
    ("error", "retry"),
    [
        (QueryError("no such bucket"), False),
        (SchemaMismatch("unknown ['colour']"), False),
        (SettingsError("CACHE_PIPELINE_REDIS_URL is not set"), False),
        (LoginRefused(client_ids=["alpha"], login_url="https://login.invalid", reason="no"), False),
        (UpstreamRefused(status=400, method="POST", path="/x"), False),
        (UpstreamUnreachable(host="vendor.invalid", reason="timed out"), True),
        (UpstreamJobFailed("job-1", "the vendor gave no reason"), True),
        (HistoryUnavailable("PostgreSQL at localhost cannot be reached"), True),
    ],
)
def test_failure_has_one_line_and_retryability(*, error: Exception, retry: bool) -> None:
    with pytest.raises(dg.Failure) as caught, reported_failures():
        raise error
    assert caught.value.description == str(error)
    assert caught.value.allow_retries is retry
    assert caught.value.metadata["error"].value == type(error).__name__
