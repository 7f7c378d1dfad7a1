"""A small bar chart inside a run's metadata, drawn here: a plotting library is heavier than everything it would draw."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

import dagster as dg

_WIDTH, _HEIGHT, _FOOT = 640, 120, 18
_COLOUR = "#4f43dd"
#: More bars than this are narrower than a pixel pair; neighbours are then drawn as one, by their greatest.
_MOST_BARS = 200


def partition_chart(numbers: Mapping[str, float]) -> dg.MarkdownMetadataValue:
    """Numbers by partition as bars, the least and the greatest told beside them; shown as an image by the UI."""
    if not numbers:
        return dg.MetadataValue.md("no partitions")
    image = base64.b64encode(bar_chart(list(numbers), list(numbers.values())).encode()).decode()
    least, greatest = min(numbers.values()), max(numbers.values())
    alternative = f"{len(numbers)} partitions, {least:,.0f} to {greatest:,.0f}"
    return dg.MetadataValue.md(f"![{alternative}](data:image/svg+xml;base64,{image})\n\n{alternative}")


def bar_chart(labels: Sequence[str], values: Sequence[float]) -> str:
    """An SVG of one bar for each value, the first and last label below."""
    bars = _merged(values)
    top = max(max(bars), 1e-9)
    width = _WIDTH / len(bars)
    drawn = "".join(
        f'<rect x="{number * width:.2f}" y="{_HEIGHT * (1 - value / top):.2f}" width="{max(width - 1, 0.5):.2f}" '
        f'height="{_HEIGHT * value / top:.2f}"/>'
        for number, value in enumerate(bars)
    )
    foot = _HEIGHT + _FOOT - 4
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT + _FOOT}" '
        f'font-family="sans-serif" font-size="11"><g fill="{_COLOUR}">{drawn}</g><g fill="#777">'
        f'<text x="0" y="{foot}">{escape(labels[0])}</text>'
        f'<text x="{_WIDTH}" y="{foot}" text-anchor="end">{escape(labels[-1])}</text></g></svg>'
    )


def _merged(values: Sequence[float]) -> list[float]:
    each = -(-len(values) // _MOST_BARS)
    return [max(values[start : start + each]) for start in range(0, len(values), each)]
