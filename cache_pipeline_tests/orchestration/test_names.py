"""Names as assets: which there are, what a run stores, and what it says when it may not read them."""

import dagster as dg
import pytest

from cache_pipeline.bootstrap.stores import open_stored_names
from cache_pipeline.orchestration.build import build_defs
from cache_pipeline.orchestration.names import names_job
from cache_pipeline.query.report import Report
from cache_pipeline.settings import read_settings
from cache_pipeline.storage.ports.names import NameScope
from cache_pipeline_tests.orchestration.workbench import (
    SECRETS,
    SMALL_VENDOR,
    Bench,
    declaration,
    job_declaration,
    open_bench,
)

ACCOUNT = "genesys/main"
QUEUES = dg.AssetKey(["names", "genesys", "main", "queues"])


def _run(bench: Bench, instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    job = bench.definitions().resolve_job_def(names_job(ACCOUNT))
    return job.execute_in_process(instance=instance)


def _metadata(result: dg.ExecuteInProcessResult) -> dict[str, object]:
    (event,) = result.get_asset_materialization_events()
    return {name: value.value for name, value in event.materialization.metadata.items()}


def test_there_is_an_asset_for_each_listing_that_a_report_needs(environment: pytest.MonkeyPatch):
    reports = [
        Report.model_validate(each)
        for each in (declaration(), job_declaration(), declaration(name="by_flow", query_type="flows",
                     group_by=["flowId"], metrics=["nFlow"], volume_metric="nFlow", account="second"))
    ]  # fmt: skip
    definitions = build_defs(reports={report.name: report for report in reports})
    keys = {tuple(key.path) for key in definitions.resolve_asset_graph().get_all_asset_keys() if key.path[0] == "names"}
    accounts = {("genesys", "main", "queues"), ("genesys", "second", "flows"), ("reportdata", "main", "queues")}
    assert keys == {("names", *account) for account in accounts}
    schedules = {schedule.name: schedule.cron_schedule for schedule in definitions.schedules or ()}
    assert schedules["names_genesys_main_schedule"] == schedules["names_genesys_second_schedule"] == "0 3 * * *"


def test_run_stores_names_and_says_what_changed(bench: Bench, instance: dg.DagsterInstance):
    assert _metadata(_run(bench, instance)) == {
        "names": 3, "requests": 1, "new or renamed": 3, "no longer valid": 0
    }  # fmt: skip
    names = bench.admin.get("/simulator/directory").json()["queues"]
    first, second, _ = names
    bench.admin.post("/simulator/directory", json={"kind": "queues", "id": first, "name": "Invoices"})
    bench.admin.post("/simulator/directory", json={"kind": "queues", "id": second, "deleted": True})
    assert _metadata(_run(bench, instance)) == {
        "names": 2, "requests": 1, "new or renamed": 1, "no longer valid": 2
    }  # fmt: skip
    with open_stored_names(read_settings()) as stored:
        assert stored.current(bench.report, {"queue_id": set(names)})["queue_id"] == {**names, first: "Invoices"}


def test_missing_permission_fails_no_run_and_is_warned_of_once(
    servers: pytest.MonkeyPatch, tmp_path, instance: dg.DagsterInstance
):
    rights = dict.fromkeys(SECRETS, frozenset({"analytics:conversationAggregate:view"}))
    vendor = SMALL_VENDOR.model_copy(update={"client_permissions": rights})
    with open_bench(servers, tmp_path, declaration(), vendor) as bench:
        runs = [_run(bench, instance) for _ in range(2)]
        warnings = [
            [entry for entry in instance.all_logs(run.run_id) if "not updated" in entry.user_message] for run in runs
        ]
        assert [len(each) for each in warnings] == [1, 0]
        assert "routing:queue:view" in str(_metadata(runs[1])["problem"])
        with open_stored_names(read_settings()) as stored:
            assert stored.store.state(NameScope("default", ACCOUNT))["queues"].listed_at is None
