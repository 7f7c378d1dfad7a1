"""Every code example in docs/edge.md, and the page itself, reads exactly the same rows."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cache_pipeline import edge
from cache_pipeline.errors import EdgeStoreError, QueryError
from cache_pipeline_tests.dashboard.conftest import OpenPage

DOCS = (Path(__file__).parents[2] / "docs" / "edge.md").read_text()
BASE, FOLDER = "https://figures.example.com/v1/default", "data/edge/v1/default"


def recipe(heading: str) -> str:
    """Return the code block below a heading of docs/edge.md."""
    found = re.search(rf"### {re.escape(heading)}\n\n```\w+\n(.*?)```", DOCS, re.DOTALL)
    assert found, heading
    return found[1]


def in_order(rows: pa.Table) -> list[dict[str, Any]]:
    keys = [(name, "ascending") for name in ("interval_start", "queue_id")]
    return rows.cast(rows.schema).sort_by(keys).to_pylist()


@pytest.fixture(scope="module")
def base(url: str) -> str:
    return url.removesuffix("/")


@pytest.fixture(scope="module")
def expected(base: str) -> list[dict[str, Any]]:
    found = in_order(edge.read(base, "queue_day"))
    assert len(found) == 35 * 3
    return found


TO_ARROW: dict[str, Callable[[Any], pa.Table]] = {
    "pandas": lambda rows: pa.Table.from_pandas(rows, preserve_index=False),
    "Polars": lambda rows: rows.to_arrow(),
    "DuckDB": lambda rows: rows.to_arrow_table(),
    "pyarrow, from a folder": lambda rows: rows,
}


@pytest.mark.parametrize("reader", TO_ARROW)
def test_every_reader_sees_the_same_rows(reader: str, base: str, site: Path, expected: list[dict[str, Any]]):
    code = recipe(reader)
    assert BASE in code or FOLDER in code
    names: dict[str, Any] = {}
    exec(code.replace(BASE, base).replace(FOLDER, str(site / "v1/default")), names)
    rows = TO_ARROW[reader](names["rows"])
    read = [{name: row[name] for name in expected[0]} for row in in_order(rows)]
    assert read == expected


def test_checked_reader_selects_columns_and_days(base: str, expected: list[dict[str, Any]]):
    names: dict[str, Any] = {}
    exec(recipe("Python, checked").replace(BASE, base), names)
    selected = [row for row in expected if "2026-11-16" <= row["interval_start"].date().isoformat() < "2026-11-23"]
    assert names["rows"].schema.names == ["interval_start", "queue_id", "offered"]
    assert in_order(names["rows"]) == [{name: row[name] for name in names["rows"].schema.names} for row in selected]
    assert len(selected) == 21


def test_browser_sees_the_same_rows(open_page: OpenPage, expected: list[dict[str, Any]]):
    page = open_page("dataset=queue_day")
    script = page.locator('script[type="module"]').get_attribute("src")
    code = recipe("The browser").replace("./published.js", f"/v1/default/{Path(script).parent}/published.js")
    files = page.evaluate(f"async () => {{ {code}; return files }}")
    rows = [
        tuple(file["columns"][name][row] for name in ("interval_start", "queue_id", "offered"))
        for file in files
        for row in range(file["rows"])
    ]
    published = [(row["interval_start"].timestamp() * 1000, row["queue_id"], row["offered"]) for row in expected]
    assert sorted(rows) == published


def test_unreadable_data_is_reported(base: str, site: Path, tmp_path: Path):
    with pytest.raises(
        EdgeStoreError, match="has no data set 'queue_week': it has conversation_day, queue_day, queue_hour"
    ):
        edge.read(base, "queue_week")
    with pytest.raises(EdgeStoreError, match="has no column handled: it has interval_start"):
        edge.read(base, "queue_day", ["handled"])
    with pytest.raises(EdgeStoreError, match="no published file of 2020"):
        edge.read(base, "queue_day", interval="2020-01-01/2020-01-02")
    with pytest.raises(QueryError, match="is open"):
        edge.read(base, "queue_day", interval="2020-01-01")
    with pytest.raises(EdgeStoreError, match=r"has no manifest\.json: give the URL of the folder"):
        edge.read(f"file://{tmp_path}", "queue_day")
    with pytest.raises(EdgeStoreError, match="give the URL of the folder"):
        edge.read("nonsense", "queue_day")
    manifest = json.loads((site / "v1/default/manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, "format": 2}))
    with pytest.raises(EdgeStoreError, match="its format is 2, and this version reads format 1 only"):
        edge.read(f"file://{tmp_path}", "queue_day")
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(EdgeStoreError, match="is missing: tell the publisher"):
        edge.read(f"file://{tmp_path}", "queue_day")


def test_any_form_of_manifest_url_is_accepted(base: str, site: Path):
    for address in (base, f"{base}/", f"{base}/manifest.json", f"{base}/index.html", (site / "v1/default").as_uri()):
        assert edge.read(address, "queue_day").num_rows == 105
    assert edge.read_manifest(base).datasets["queue_day"].complete_through is not None
