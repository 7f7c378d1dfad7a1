"""Test of a backfill launched as the Dagster UI does it: by GraphQL, then run by the daemon."""

from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
import yaml

from cache_pipeline.query.interval import IntervalSet
from cache_pipeline_tests.orchestration.user_interface import Ui, free_port, running
from cache_pipeline_tests.orchestration.workbench import LAYERS, STAGED_CHECKS, Bench

pytestmark = pytest.mark.system

PROJECT = Path(__file__).parents[2]
DAEMON = ("dagster-daemon", "run", "-w", "workspace.yaml")


@pytest.fixture
def project_home(servers: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Set a DAGSTER_HOME with the project's ``dagster.yaml``, whose files are in the test's folder."""
    folder = tmp_path / "home"
    folder.mkdir()
    config = yaml.safe_load((PROJECT / "dagster.yaml").read_text())
    config["local_artifact_storage"]["config"]["base_dir"] = str(folder / "artifacts")
    config["compute_logs"]["config"]["base_dir"] = str(folder / "logs")
    (folder / "dagster.yaml").write_text(yaml.safe_dump(config))
    servers.setenv("DAGSTER_HOME", str(folder))
    return folder


@pytest.mark.timeout(900)
def test_graphql_backfill_is_one_run_and_relaunch_fetches_failures(one_query_bench: Bench, project_home: Path) -> None:
    bench = one_query_bench
    hundred = [key for key in bench.partitions.get_partition_keys() if key >= "2024-03-01"][:100]
    port, log = free_port(), project_home / "dagster.log"
    with ExitStack() as stack:
        webserver = ("dagster-webserver", "-h", "127.0.0.1", "-p", str(port), "-w", "workspace.yaml")
        stack.enter_context(running(log, *webserver, folder=PROJECT))
        http = stack.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60))
        ui = Ui(http, log)
        ui.wait("the webserver has loaded the reports", ui.is_up)

        bench.fail_partitions(hundred[0], hundred[4])
        first = ui.backfill([bench.report.name], hundred)
        # The daemon looks for backfills when it starts, and then every thirty seconds.
        with running(log, *DAEMON, folder=PROJECT):
            assert ui.ended_runs(first) == ["FAILURE"]
        # A failed day is asked for in halves, down to one hour.
        assert 100 <= bench.count_queries() <= 95 + 5 * 9
        done = ui.materialised(bench, "staged")
        assert len(done) == 95
        assert all(ui.materialised(bench, layer) == done for layer in LAYERS)
        assert all(ui.passed(bench, check) == done for check in STAGED_CHECKS)

        bench.clear_faults()
        relaunched = ui.backfill([bench.report.name], hundred)
        with running(log, *DAEMON, folder=PROJECT):
            assert ui.ended_runs(relaunched) == ["SUCCESS"]
        assert bench.count_queries() == 5
        assert all(ui.materialised(bench, layer) == set(hundred) for layer in LAYERS)
        assert all(ui.passed(bench, check) == set(hundred) for check in STAGED_CHECKS)
    assert bench.coverage().final == IntervalSet([bench.interval(hundred[0], hundred[-1])])
