"""Shared setup of the Dagster tests: declarations, a small simulated vendor, and settings in the environment.

``Bench`` bundles one report with its vendor and tiers. Helpers that read a Dagster instance or a run result belong here;
fixtures are in ``conftest``.
"""

import json
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import httpx
import pytest
import yaml
from pydantic import SecretStr

from cache_pipeline.bootstrap.database import migrate_history
from cache_pipeline.bootstrap.stores import open_edge_tier
from cache_pipeline.orchestration.build import build_defs
from cache_pipeline.orchestration.naming import job_name
from cache_pipeline.orchestration.partitions import range_tags, report_partitions
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.report import Report
from cache_pipeline.query.series import Series
from cache_pipeline.settings import read_settings
from cache_pipeline.simulator import SimulatorSettings, running_simulator
from cache_pipeline.simulator.server import Clock
from cache_pipeline.storage.coverage import Coverage
from cache_pipeline.storage.postgres.history import open_history
from cache_pipeline.storage.published import EdgeTier
from cache_pipeline.vendors.declaration_rules import use_row_keys
from cache_pipeline_tests.query.declared import grouped

SECRETS = {name: f"{name}-secret-7d1f2a" for name in ("alpha", "beta")}
TIERS = ("history", "hot", "edge")
LAYERS = ("staged", *TIERS)
STAGED_CHECKS = ("completeness", "schema", "watermark")

SMALL_VENDOR = SimulatorSettings(
    clients={name: SecretStr(secret) for name, secret in SECRETS.items()},
    queues=3,
    agents=6,
    conversations_per_working_day=3000,
    job_seconds_base=0.01,
    job_seconds_per_1000_cells=0.0,
    reportdata_rate_limit=10_000,
    genesys_rate_limit=10_000,
    # The tests of truncation count the rows of an answer; one group is one row.
    split_by_medium=False,
)


def declaration(**changes: Any) -> dict[str, Any]:
    """Return the fields of a report that one synchronous request answers; a change to None leaves a field out."""
    fields = {
        "name": "calls_hour",
        "description": "Conversations offered by queue, by hour",
        "platform": "genesys",
        "query_type": "conversations",
        "delivery": "sync",
        "granularity": "PT1H",
        "time_zone": "Europe/Berlin",
        "group_by": ["queueId"],
        "metrics": ["nOffered"],
        "volume_metric": "nOffered",
        "partition": "day",
        "start": "2024-01-01",
        "expected_groups": 3,
        "owners": ["team:operations"],
    }
    return grouped({name: value for name, value in (fields | changes).items() if value is not None})


def job_declaration(**changes: Any) -> dict[str, Any]:
    """Return the fields of a report with the same figures from the platform that answers by job."""
    fields = {
        "name": "queue_hour",
        "platform": "reportdata",
        "query_type": "queue-performance",
        "delivery": None,
        "metrics": ["offered"],
        "volume_metric": "offered",
    }
    return declaration(**(fields | changes))


@dataclass(frozen=True)
class Bench:
    """One declared report with its vendor and its tiers.

    Attributes:
        report: The declared report.
        admin: Client of the simulated vendor's administration.
        data: The data folder.
    """

    report: Report
    admin: httpx.Client
    data: Path

    @property
    def partitions(self) -> dg.TimeWindowPartitionsDefinition:
        return report_partitions(self.report)

    @property
    def series(self) -> Series:
        return Series(self.report)

    def key(self, layer: str) -> dg.AssetKey:
        return dg.AssetKey([self.report.name, layer])

    def check(self, name: str, layer: str = "staged") -> dg.AssetCheckKey:
        return dg.AssetCheckKey(self.key(layer), name)

    def definitions(self) -> dg.Definitions:
        return build_defs(reports={self.report.name: self.report})

    def run(
        self,
        instance: dg.DagsterInstance,
        first: str,
        last: str | None = None,
        *,
        refetch: bool = False,
        tags: dict[str, str] | None = None,
        layer: str | None = None,
        raise_on_error: bool = False,
    ) -> dg.ExecuteInProcessResult:
        """Run all the report's assets, or those of one layer, for a range of partitions in this process."""
        config = {"ops": {f"staged__{self.report.name}": {"config": {"refetch": refetch}}}} if refetch else None
        return (
            self.definitions()
            .resolve_job_def(job_name(self.report))
            .execute_in_process(
                instance=instance,
                run_config=config,
                tags={**range_tags(first, last or first), **(tags or {})},
                asset_selection=[self.key(layer)] if layer else None,
                raise_on_error=raise_on_error,
            )
        )

    def inject_faults(self, **faults: Any) -> None:
        self.admin.post("/simulator/faults", json=faults).raise_for_status()

    def fail_partitions(self, first: str, last: str | None = None) -> None:
        """Let every job of some partitions fail until the faults are cleared or replaced."""
        self.inject_faults(fail_jobs_touching=str(self.interval(first, last)))

    def clear_faults(self) -> None:
        self.admin.delete("/simulator/faults").raise_for_status()

    def count_queries(self) -> int:
        """Return the number of queries that the vendor received since the last call."""
        summary = self.admin.get("/simulator/counters").json()["summary"]
        self.admin.delete("/simulator/counters").raise_for_status()
        return summary["submits"] + summary["sync_queries"]

    def vendor_total(self, interval: Interval) -> int:
        """Return the offered calls of an interval, according to the vendor."""
        rows = self.admin.get("/simulator/truth", params={"interval": str(interval)}).json()["rows"]
        return sum(row["offered"] for row in rows)

    def interval(self, key: str, last: str | None = None) -> Interval:
        first, final = (self.partitions.time_window_for_partition_key(each) for each in (key, last or key))
        return Interval(first.start, final.end)

    def coverage(self) -> Coverage:
        with open_history(read_settings().required_postgres_url()) as history:
            return history.coverage(self.series)

    def edge(self) -> EdgeTier:
        return open_edge_tier(read_settings())

    def staged_files(self) -> set[str]:
        return {path.stem.split("_")[0] for path in (self.data / "staged").rglob("*.parquet")}


def materialized(instance: dg.DagsterInstance, key: dg.AssetKey) -> set[str]:
    return set(instance.get_materialized_partitions(key))


def evaluations(result: dg.ExecuteInProcessResult, key: dg.AssetCheckKey) -> list[dg.AssetCheckEvaluation]:
    """Return the evaluations of a check among the run's events, in order."""
    return [found for found in result.get_asset_check_evaluations() if found.asset_check_key == key]


def recorded_evaluations(instance: dg.DagsterInstance, key: dg.AssetCheckKey) -> list[dg.AssetCheckEvaluation]:
    """Return every evaluation of a check that the instance has stored, oldest first."""
    history = instance.event_log_storage.get_asset_check_execution_history(key, limit=1000)
    events = sorted((record.event for record in history if record.event), key=lambda event: event.timestamp)
    return [event.asset_check_evaluation for event in events if event.asset_check_evaluation]


def step_failures(result: dg.ExecuteInProcessResult) -> list[tuple[str, str, dg.Failure | Any]]:
    """Return step key, error text and failure data of each failed step."""
    return [
        (event.step_key or "", event.step_failure_data.error_display_string, event.step_failure_data)
        for event in result.all_events
        if event.is_step_failure
    ]


def all_log_text(instance: dg.DagsterInstance, run_id: str) -> str:
    """Return the whole event log of a run as text: messages, metadata, errors and stack traces."""
    return "\n".join(dg.serialize_value(entry) for entry in instance.all_logs(run_id))


def set_account(
    patch: pytest.MonkeyPatch, platform: str, url: str, clients: dict[str, str] = SECRETS, **limits: float
) -> None:
    account = {
        "base_url": url,
        "login_url": f"{url}/oauth/token",
        "clients": [{"client_id": name, "client_secret": secret} for name, secret in clients.items()],
        "rate_limit": 5000,
        **limits,
    }
    patch.setenv(f"CACHE_PIPELINE_ACCOUNTS__{platform.upper()}__MAIN", json.dumps(account))


def write_reports(folder: Path, declarations: Iterable[dict[str, Any]]) -> None:
    folder.mkdir(exist_ok=True)
    for declaration in declarations:
        (folder / f"{declaration['name']}.yaml").write_text(yaml.safe_dump(declaration))


@contextmanager
def open_bench(
    patch: pytest.MonkeyPatch,
    folder: Path,
    declaration: dict[str, Any],
    vendor: SimulatorSettings = SMALL_VENDOR,
    clock: Clock | None = None,
) -> Generator[Bench]:
    """Open a bench for one report; the URLs of the servers are in the environment already."""
    write_reports(folder / "reports", [declaration])
    patch.setenv("CACHE_PIPELINE_REPORTS_DIR", str(folder / "reports"))
    patch.setenv("CACHE_PIPELINE_DATA_DIR", str(folder / "data"))
    report = use_row_keys(Report.model_validate(declaration))
    with running_simulator(vendor, clock=clock) as url, httpx.Client(base_url=url) as admin:
        for platform in ("reportdata", "genesys"):
            set_account(patch, platform, url)
        migrate_history(read_settings(), {report.name: report})
        yield Bench(report, admin, folder / "data")
