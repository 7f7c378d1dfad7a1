"""Tests of the edge tier's maintenance job and of the sensor that reads the public URL."""

import json
import shutil
from pathlib import Path

import dagster as dg
import pytest

from cache_pipeline import edge as public
from cache_pipeline.orchestration.edge_maintenance import MAINTENANCE_JOB, READBACK_SENSOR
from cache_pipeline.orchestration.names import names_job
from cache_pipeline.orchestration.resources import EngineResource
from cache_pipeline.settings import read_settings
from cache_pipeline_tests.orchestration.workbench import Bench


def run_maintenance(bench: Bench, instance: dg.DagsterInstance) -> bool:
    return (
        bench.definitions()
        .resolve_job_def(MAINTENANCE_JOB)
        .execute_in_process(instance=instance, raise_on_error=False)
        .success
    )


def tick(bench: Bench, instance: dg.DagsterInstance):
    sensor = bench.definitions().resolve_sensor_def(READBACK_SENSOR)
    with dg.build_sensor_context(instance=instance, resources={"cache_pipeline__engine": EngineResource()}) as context:
        return sensor.evaluate_tick(context)


def test_maintenance_publishes_page_and_history(bench: Bench, instance: dg.DagsterInstance):
    assert run_maintenance(bench, instance)
    root = Path(read_settings().edge_store_url.removeprefix("file://")) / "v1/default"
    assert (root / "index.html").exists()
    assert json.loads((root / "names.json").read_text()) == {}
    assert bench.edge().manifest().datasets == {}, "history is empty"


def test_maintenance_publishes_the_names_of_published_ids_only(bench: Bench, instance: dg.DagsterInstance):
    root = Path(read_settings().edge_store_url.removeprefix("file://")) / "v1/default"
    names = bench.admin.get("/simulator/directory").json()["queues"]
    read_names = bench.definitions().resolve_job_def(names_job(bench.report.account_id))
    read_names.execute_in_process(instance=instance)
    run_maintenance(bench, instance)
    assert json.loads((root / "names.json").read_text()) == {}
    assert bench.run(instance, "2024-06-10").success
    run_maintenance(bench, instance)
    assert json.loads((root / "names.json").read_text()) == {"queue_id": names}

    renamed = next(iter(names))
    bench.admin.post("/simulator/directory", json={"kind": "queues", "id": renamed, "name": "Invoices"})
    read_names.execute_in_process(instance=instance)
    run_maintenance(bench, instance)
    assert json.loads((root / "names.json").read_text()) == {"queue_id": {**names, renamed: "Invoices"}}


def test_readback_sensor_reports_what_readers_get(
    bench: Bench, instance: dg.DagsterInstance, environment: pytest.MonkeyPatch, tmp_path: Path
):
    with pytest.raises(dg.Failure, match="CACHE_PIPELINE_EDGE_PUBLIC_URL is not set"):
        tick(bench, instance)
    root = Path(read_settings().edge_store_url.removeprefix("file://")) / "v1/default"
    bench.edge()
    environment.setenv("CACHE_PIPELINE_EDGE_PUBLIC_URL", root.as_uri())
    with pytest.raises(dg.Failure, match="check the CDN's origin and access rules"):
        tick(bench, instance)
    from cache_pipeline_tests.storage.sample_rows import REPORT, hours, table

    published = bench.edge().publish(REPORT, {hours(0, 24): table(hours(0, 24))}, None)
    assert f"readers get snapshot {published.snapshot}" in tick(bench, instance).skip_message
    shutil.copytree(root, tmp_path / "cdn")
    assert public.read(f"file://{tmp_path}/cdn", "queue_hour").num_rows == 48
