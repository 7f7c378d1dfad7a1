"""Test that one field of a declaration moves a report, of figures or of rows, from one vendor to another."""

import json
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import httpx
import pytest

from cache_pipeline.bootstrap.database import migrate_history
from cache_pipeline.bootstrap.reports import Declarations, report_columns
from cache_pipeline.bootstrap.stores import open_edge_tier
from cache_pipeline.query.report import Report
from cache_pipeline.query.series import Series
from cache_pipeline.settings import read_settings
from cache_pipeline.simulator import running_simulator
from cache_pipeline.storage.postgres.history import open_history
from cache_pipeline_tests.orchestration.workbench import (
    SECRETS,
    SMALL_VENDOR,
    Bench,
    declaration,
    set_account,
    step_failures,
    write_reports,
)

FIRST, LAST = "2024-06-10", "2024-06-11"
CALL_SECONDS = 0.05
# The two vendors differ in threads of days: one has the whole thread, the other the recording of its first exchange.
VENDOR = SMALL_VENDOR.model_copy(
    update={"conversations_per_working_day": 500, "cxone_call_seconds": CALL_SECONDS, "thread_share": 0.0}
)
COUNTED: dict[str, Any] = {"delivery": None, "metrics": ["nConnected", "nOffered", "tTalk"], "expected_groups": None}
ROWS: dict[str, Any] = {
    **COUNTED,
    "rows": "conversations",
    "group_by": [],
    "tiers": ["history", "edge"],
    "edge_group_by": ["mediaType"],
    "granularity": "P1D",
}


@contextmanager
def _vendors(patch: pytest.MonkeyPatch, folder: Path) -> Generator[httpx.Client]:
    patch.setenv("CACHE_PIPELINE_REPORTS_DIR", str(folder / "reports"))
    patch.setenv("CACHE_PIPELINE_DATA_DIR", str(folder / "data"))
    with running_simulator(VENDOR) as url, httpx.Client(base_url=url) as admin:
        set_account(patch, "genesys", url)
        # Our window is longer than the vendor's, as by default, because requests arrive with some delay.
        account = {
            "base_url": url,
            "login_url": f"{url}/authentication/v1/token/access-key",
            "clients": [{"client_id": "alpha", "client_secret": SECRETS["alpha"]}],
            "window_seconds": 4 * CALL_SECONDS,
        }
        patch.setenv("CACHE_PIPELINE_ACCOUNTS__CXONE__MAIN", json.dumps(account))
        yield admin


def _backfill(folder: Path, admin: httpx.Client, declaration: dict[str, Any]) -> Report:
    write_reports(folder / "reports", [declaration])
    report = Declarations().read(folder / "reports" / f"{declaration['name']}.yaml")
    migrate_history(read_settings(), {report.name: report})
    with dg.DagsterInstance.ephemeral() as instance:
        bench = Bench(report, admin, folder / "data")
        result = bench.run(instance, FIRST, LAST, tags={"cache_pipeline/lane": "backfill"})
        assert result.success, step_failures(result)
    return report


def _history(report: Report, bench_interval: Any) -> list[dict[str, Any]]:
    with open_history(read_settings().required_postgres_url()) as history:
        table = history.read(Series(report), bench_interval, report_columns(report))
    return table.to_pylist()


@pytest.mark.parametrize("changes", [COUNTED, ROWS], ids=["figures", "rows"])
def test_report_can_move_from_genesys_to_cxone(
    servers: pytest.MonkeyPatch, tmp_path: Path, changes: dict[str, Any]
) -> None:
    with _vendors(servers, tmp_path) as admin:
        genesys = _backfill(tmp_path, admin, declaration(**changes))
        cxone = _backfill(tmp_path, admin, declaration(**changes, platform="cxone"))
        days = Bench(genesys, admin, tmp_path).interval(FIRST, LAST)
        calls = admin.get("/simulator/counters").json()
        genesys_rows, cxone_rows = _history(genesys, days), _history(cxone, days)
        offered = sum(
            row["offered"] for row in admin.get("/simulator/truth", params={"interval": str(days)}).json()["rows"]
        )
    assert any(call["call"].startswith("POST /data-extraction") for call in calls["calls"])
    assert {row["n_offered"] for row in genesys_rows} != {0}
    # One vendor counts a call when it is offered, the other when it starts: near midnight these are two days.
    assert sum(row["n_offered"] for row in cxone_rows) == pytest.approx(offered, rel=0.02)
    assert sum(row["n_offered"] for row in genesys_rows) == pytest.approx(offered, rel=0.02)
    if genesys.rows:
        published = open_edge_tier(read_settings()).read(cxone, days).to_pylist()
        counted = Counter((row["interval_start"], row["media_type"]) for row in cxone_rows)
        assert {(row["interval_start"], row["media_type"]): row["conversations"] for row in published} == counted
        names = ("conversation_id", "conversation_start", "conversation_end", "first_queue_id", "t_talk", "n_offered")
        assert [[row[name] for name in names] for row in genesys_rows] == [
            [row[name] for name in names] for row in cxone_rows
        ]
        assert len({row["conversation_id"] for row in genesys_rows}) == len(genesys_rows) > 300
