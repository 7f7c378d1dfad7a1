"""The daily job that follows the vendors' requests to delete a person's data; it exists only if the settings say so."""

import dagster as dg
import psycopg
import pytest

from cache_pipeline.orchestration.vendor_deletions import DELETIONS_JOB
from cache_pipeline.settings import read_settings
from cache_pipeline_tests.orchestration.workbench import Bench


def test_job_follows_each_request_once(bench: Bench, instance: dg.DagsterInstance, servers: pytest.MonkeyPatch):
    assert DELETIONS_JOB not in {job.name for job in bench.definitions().resolve_all_job_defs()}
    servers.setenv("CACHE_PIPELINE_VENDOR_DELETIONS", "remove")
    queue = next(iter(bench.admin.get("/simulator/directory").json()["queues"]))
    subject = {"subject": {"userId": queue}}
    request = bench.admin.post("/simulator/gdpr-requests", json=subject).raise_for_status().json()["id"]
    assert bench.run(instance, "2024-06-10").success

    def rows() -> tuple[int, list[str]]:
        with psycopg.connect(read_settings().required_postgres_url()) as connection:
            found = connection.execute("SELECT count(*) FROM reporting.calls_hour WHERE queue_id = %s", [queue])
            followed = connection.execute("SELECT request FROM cache_pipeline_state.forgotten_request").fetchall()
            (count,) = found.fetchone() or (0,)
            return count, [name for (name,) in followed]

    assert rows()[0] > 0
    job = bench.definitions().resolve_job_def(DELETIONS_JOB)
    for _ in range(2):
        assert job.execute_in_process(instance=instance).success
        assert rows() == (0, [request])
