"""Tests of a run's progress lines and of the charts in its metadata."""

import base64
import re
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_pipeline.orchestration.metadata import bar_chart, partition_chart
from cache_pipeline.orchestration.progress import RunProgress, format_duration

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0 s"), (40, "40 s"), (720, "12 min"), (5400, "1 h 30 min"), (11_100, "3 h 5 min")]
)
def test_duration_is_formatted_for_people(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_remaining_time_follows_from_elapsed_time() -> None:
    now = 0.0
    progress = RunProgress(100, lambda: now)
    now = 120.0
    assert progress.report(30) == "30 of 100 partitions in 2 min, about 5 min left"
    assert progress.report(31) is None, "one line for each tenth"
    now = 400.0
    assert progress.report(100) == "100 of 100 partitions in 7 min"


@given(st.integers(0, 5000))
def test_run_reports_at_most_ten_lines(total: int) -> None:
    progress = RunProgress(total, iter(range(10**6)).__next__)
    lines = [line for done in range(1, total + 1) if (line := progress.report(done))]
    assert len(lines) <= 10
    assert not total or lines[-1].startswith(f"{total} of {total} ")


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=1000))
def test_bars_fit_the_chart(values: list[float]) -> None:
    root = ET.fromstring(bar_chart(["first", *["&"] * (len(values) - 1)], values))
    bars = root.findall(f".//{SVG}rect")
    assert 1 <= len(bars) <= 200
    for bar in bars:
        box = {name: float(bar.get(name) or "nan") for name in ("x", "y", "width", "height")}
        assert 0 <= box["x"] < 640
        assert 0 <= box["y"] <= 120.01
        assert box["y"] + box["height"] == pytest.approx(120, abs=0.02)


def test_partition_chart_is_an_inline_image_with_caption() -> None:
    text = partition_chart({"2026-01-01": 12.0, "2026-01-02": 3400.0}).value or ""
    match = re.search(r"!\[(.*)\]\(data:image/svg\+xml;base64,(.*)\)", text)
    assert match is not None
    assert match[1] == "2 partitions, 12 to 3,400"
    labels = [part.text for part in ET.fromstring(base64.b64decode(match[2])).findall(f".//{SVG}text")]
    assert labels == ["2026-01-01", "2026-01-02"]
    assert "no partitions" in (partition_chart({}).value or "")
