"""A report is moved from one vendor to another by one word in its file, and rows come the same way as figures."""

import json
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import httpx
import pytest

from cache_pipeline.bootstrap import edge_tier, migrate_history, report_columns, review_declaration
from cache_pipeline.query.declarations import read_report
from cache_pipeline.query.report import Report
from cache_pipeline.query.series import Series
from cache_pipeline.settings import read_settings
from cache_pipeline.simulator import running_simulator
from cache_pipeline.storage.postgres.history import open_history
from cache_pipeline_tests.orchestration.workbench import (
    SECRETS,
    SMALL_VENDOR,
    Bench,
    declared,
    failures,
    set_account,
    write_reports,
)

FIRST, LAST = "2024-06-10", "2024-06-11"
CALL_SECONDS = 0.05
VENDOR = SMALL_VENDOR.model_copy(update={"conversations_per_working_day": 500, "cxone_call_seconds": CALL_SECONDS})
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
def _world(patch: pytest.MonkeyPatch, folder: Path) -> Generator[httpx.Client]:
    patch.setenv("CACHE_PIPELINE_REPORTS_DIR", str(folder / "reports"))
    patch.setenv("CACHE_PIPELINE_DATA_DIR", str(folder / "data"))
    with running_simulator(VENDOR) as url, httpx.Client(base_url=url) as admin:
        set_account(patch, "genesys", url)
        # Longer than the vendor's, as ours is by default: what reaches it is late by less than the difference.
        account = {
            "base_url": url,
            "login_url": f"{url}/authentication/v1/token/access-key",
            "clients": [{"client_id": "alpha", "client_secret": SECRETS["alpha"]}],
            "window_seconds": 4 * CALL_SECONDS,
        }
        patch.setenv("CACHE_PIPELINE_CXONE", json.dumps(account))
        yield admin


def _backfilled(folder: Path, admin: httpx.Client, declaration: dict[str, Any]) -> Report:
    write_reports(folder / "reports", [declaration])
    report = read_report(folder / "reports" / f"{declaration['name']}.yaml", review_declaration)
    migrate_history(read_settings(), {report.name: report})
    with dg.DagsterInstance.ephemeral() as instance:
        bench = Bench(report, admin, folder / "data")
        result = bench.run(instance, FIRST, LAST, tags={"cache_pipeline/lane": "backfill"})
        assert result.success, failures(result)
    return report


def _history(report: Report, bench_interval: Any) -> list[dict[str, Any]]:
    with open_history(read_settings().required_postgres_url()) as history:
        table = history.read(Series(report), bench_interval, report_columns(report))
    return table.to_pylist()


@pytest.mark.parametrize("changes", [COUNTED, ROWS], ids=["figures", "rows"])
def test_swapping_genesys_for_cxone_in_a_file_runs_a_whole_backfill(
    servers: pytest.MonkeyPatch, tmp_path: Path, changes: dict[str, Any]
) -> None:
    with _world(servers, tmp_path) as admin:
        ours = _backfilled(tmp_path, admin, declared(**changes))
        theirs = _backfilled(tmp_path, admin, declared(**changes, platform="cxone"))
        days = Bench(ours, admin, tmp_path).interval(FIRST, LAST)
        calls = admin.get("/simulator/counters").json()
        one, other = _history(ours, days), _history(theirs, days)
        offered = sum(
            row["offered"] for row in admin.get("/simulator/truth", params={"interval": str(days)}).json()["rows"]
        )
    assert any(call["call"].startswith("POST /data-extraction") for call in calls["calls"])
    assert {row["n_offered"] for row in one} != {0}
    # A vendor counts a call in the hour of its offer, the other in that of its start: near midnight these are two days.
    assert sum(row["n_offered"] for row in other) == pytest.approx(offered, rel=0.02)
    assert sum(row["n_offered"] for row in one) == pytest.approx(offered, rel=0.02)
    if ours.rows:
        published = edge_tier(read_settings()).read(theirs, days).to_pylist()
        counted = Counter((row["interval_start"], row["media_type"]) for row in other)
        assert {(row["interval_start"], row["media_type"]): row["conversations"] for row in published} == counted
        names = ("conversation_id", "conversation_start", "conversation_end", "first_queue_id", "t_talk", "n_offered")
        assert [[row[name] for name in names] for row in one] == [[row[name] for name in names] for row in other]
        assert len({row["conversation_id"] for row in one}) == len(one) > 300
