"""Reports whose groups the vendor splits by medium unasked: from the backfill through every tier to the API."""

import asyncio
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from cache_pipeline.api.app import create_app
from cache_pipeline.orchestration.backfill import run_backfill
from cache_pipeline.query.interval import Interval
from cache_pipeline.settings import read_settings
from cache_pipeline_tests.orchestration.workbench import SMALL_VENDOR, Bench, declaration, open_bench

FIRST, END = date(2024, 6, 10), date(2024, 6, 12)
INTERVAL = "2024-06-10T00:00:00Z/2024-06-12T00:00:00Z"
#: Each figure with its fact in the vendor's own records: whether it is a count or milliseconds.
FIGURES = {
    "n_offered": ("offered", ""),
    "t_handle_sum": ("handle", "Ms"),
    "o_service_level_numerator": ("in_target", ""),
}
COLUMNS = {"queueId": "queue_id", "userId": "user_id"}
Figures = dict[tuple[str, ...], dict[str, int]]


async def _ask(bench: Bench, **params: str) -> list[dict[str, Any]]:
    """Return the rows of an answer of the API."""
    app = create_app(read_settings(), reports={bench.report.name: bench.report})
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api") as http,
    ):
        answer = await http.get(f"/v1/reports/{bench.report.name}", params={"interval": INTERVAL, **params})
        assert answer.status_code == 200, answer.text
    document = answer.json()
    return [dict(zip(document["columns"], row, strict=True)) for row in document["rows"]]


def _text(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _figures(rows: list[dict[str, Any]], group_by: list[str]) -> Figures:
    keys = ["interval_start", *(COLUMNS[name] for name in group_by)]
    figures = {
        tuple(str(row[key]) for key in keys): {name: int(row[name]) for name in FIGURES if row[name]} for row in rows
    }
    assert len(figures) == len(rows), "each group is one row of a bucket"
    return {key: found for key, found in figures.items() if found}


def _truth(bench: Bench, granularity: str, group_by: list[str]) -> Figures:
    figures: Figures = {}
    for name, (fact, unit) in FIGURES.items():
        query = {"interval": INTERVAL, "granularity": granularity, "groupBy": ",".join(group_by), "fact": fact}
        for row in bench.admin.get("/simulator/truth", params=query).json()["rows"]:
            key = tuple(str(row.get(each)).replace(".000Z", "Z") for each in ("intervalStart", *group_by))
            if row[fact + unit]:
                figures.setdefault(key, {})[name] = row[fact + unit]
    return figures


@pytest.mark.parametrize("delivery", ["sync", "async"])
@pytest.mark.parametrize("group_by", [["queueId"], ["userId"], []], ids=["by queue", "by user", "by nothing"])
def test_backfilled_figures_are_the_vendors_in_every_grouping(
    servers: pytest.MonkeyPatch, home: Path, tmp_path: Path, group_by: list[str], delivery: str
) -> None:
    servers.setenv("CACHE_PIPELINE_API__AUTH", "off")
    declared = declaration(
        time_zone="UTC",
        group_by=group_by,
        metrics=["nOffered", "tHandle", "oServiceLevel"],
        expected_groups=None,
        delivery=delivery,
        # Figures of single people are not published.
        tiers=["history", "hot"] if "userId" in group_by else None,
    )
    vendor = SMALL_VENDOR.model_copy(update={"split_by_medium": True})
    with open_bench(servers, tmp_path, declared, vendor) as bench:
        outcome = run_backfill(bench.report.name, FIRST, END, lambda _: None)
        assert outcome["success"], outcome["error"]
        assert all(check["passed"] for check in outcome["checks"])
        bench.count_queries()
        hourly = asyncio.run(_ask(bench))
        assert _figures(hourly, group_by) == _truth(bench, "PT1H", group_by)
        daily = asyncio.run(_ask(bench, granularity="P1D"))
        assert _figures(daily, group_by) == _truth(bench, "P1D", group_by)
        total = asyncio.run(_ask(bench, granularity="P1D", group_by=""))
        assert _figures(total, []) == _truth(bench, "P1D", [])
        if "edge" in bench.report.publish.tiers:
            published = bench.edge().read(bench.report, Interval.parse(INTERVAL)).to_pylist()
            rows = [row | {"interval_start": _text(row["interval_start"])} for row in published]
            assert _figures(rows, group_by) == _truth(bench, "PT1H", group_by)
        assert bench.count_queries() == 0, "coarser answers come from the stored rows"
