"""What a person sees of a long run: a line now and then while it works, and its numbers as a picture afterwards."""

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
    ("seconds", "told"), [(0.2, "0 s"), (40, "40 s"), (720, "12 min"), (5400, "1 h 30 min"), (11_100, "3 h 5 min")]
)
def test_a_duration_is_told_as_people_say_it(seconds: float, told: str) -> None:
    assert format_duration(seconds) == told


def test_what_is_left_follows_from_what_was_done() -> None:
    now = 0.0
    pace = RunProgress(100, lambda: now)
    now = 120.0
    assert pace.report(30) == "30 of 100 partitions in 2 min, about 5 min left"
    assert pace.report(31) is None, "a line for every tenth"
    now = 400.0
    assert pace.report(100) == "100 of 100 partitions in 7 min"


@given(st.integers(0, 5000))
def test_a_run_of_any_length_tells_ten_lines_at_most_and_its_end(total: int) -> None:
    pace = RunProgress(total, iter(range(10**6)).__next__)
    told = [line for done in range(1, total + 1) if (line := pace.report(done))]
    assert len(told) <= 10
    assert not total or told[-1].startswith(f"{total} of {total} ")


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=1000))
def test_bars_stay_inside_the_picture_and_the_greatest_fills_it(values: list[float]) -> None:
    root = ET.fromstring(bar_chart(["first", *["&"] * (len(values) - 1)], values))
    bars = root.findall(f".//{SVG}rect")
    assert 1 <= len(bars) <= 200
    for bar in bars:
        place = {name: float(bar.get(name) or "nan") for name in ("x", "y", "width", "height")}
        assert 0 <= place["x"] < 640
        assert 0 <= place["y"] <= 120.01
        assert place["y"] + place["height"] == pytest.approx(120, abs=0.02)


def test_a_chart_is_an_image_within_the_metadata_that_says_its_numbers_in_words_too() -> None:
    text = partition_chart({"2026-01-01": 12.0, "2026-01-02": 3400.0}).value or ""
    match = re.search(r"!\[(.*)\]\(data:image/svg\+xml;base64,(.*)\)", text)
    assert match is not None
    assert match[1] == "2 partitions, 12 to 3,400"
    words = [part.text for part in ET.fromstring(base64.b64decode(match[2])).findall(f".//{SVG}text")]
    assert words == ["2026-01-01", "2026-01-02"]
    assert "no partitions" in (partition_chart({}).value or "")
