"""Curves on two logarithmic axes, as SVG. A constant cost per item gives a slope of one."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 460, 300, 56, 16, 34, 40
_COLOURS = ("#4f43dd", "#0a8f6a", "#c2541b", "#9a1f6a", "#5f6b7a")


@dataclass(frozen=True)
class Chart:
    """Seconds by size.

    Attributes:
        title: What is measured.
        x_label: What grows along the x axis.
        curves: Points (size, seconds) by name of the curve.
        limit: Target in seconds, drawn as a dashed line.
    """

    title: str
    x_label: str
    curves: Mapping[str, Sequence[tuple[float, float]]]
    limit: float | None = None


def write_svg(charts: Sequence[Chart], path: Path) -> Path:
    """Draw the charts side by side and return the path."""
    body = "".join(
        f'<g transform="translate({number * _WIDTH},0)">{_draw(chart)}</g>' for number, chart in enumerate(charts)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH * len(charts)}" height="{_HEIGHT}" '
        f'viewBox="0 0 {_WIDTH * len(charts)} {_HEIGHT}" font-family="sans-serif" font-size="11">'
        f'<rect width="100%" height="100%" fill="#fff"/>{body}</svg>\n',
        encoding="utf-8",
    )
    return path


def _draw(chart: Chart) -> str:
    points = [point for curve in chart.curves.values() for point in curve]
    sizes, seconds = [size for size, _ in points], [max(second, 1e-5) for _, second in points]
    x_decades = _decades(sizes)
    y_decades = _decades([*seconds, *([chart.limit] if chart.limit else [])])

    def x(size: float) -> float:
        return _LEFT + _position(size, x_decades) * (_WIDTH - _LEFT - _RIGHT)

    def y(second: float) -> float:
        return _HEIGHT - _BOTTOM - _position(max(second, 1e-5), y_decades) * (_HEIGHT - _BOTTOM - _TOP)

    grid = "".join(
        f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(10.0**tick):.1f}" y2="{y(10.0**tick):.1f}" stroke="#e4e6ea"/>'
        f'<text x="{_LEFT - 6}" y="{y(10.0**tick) + 4:.1f}" text-anchor="end" fill="#666">{_format_seconds(10.0**tick)}</text>'
        for tick in range(y_decades[0], y_decades[1] + 1)
    ) + "".join(
        f'<text x="{x(10.0**tick):.1f}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle" fill="#666">{10**tick:,}</text>'
        for tick in range(x_decades[0], x_decades[1] + 1)
    )
    limit = (
        f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(chart.limit):.1f}" y2="{y(chart.limit):.1f}" '
        'stroke="#c33" stroke-dasharray="4 3"/>'
        if chart.limit
        else ""
    )
    lines = "".join(
        _line([(x(size), y(second)) for size, second in curve], _COLOURS[number % len(_COLOURS)], name, number)
        for number, (name, curve) in enumerate(chart.curves.items())
    )
    return (
        f'<text x="{_LEFT}" y="16" font-weight="bold" fill="#222">{escape(chart.title)}</text>{grid}{limit}{lines}'
        f'<text x="{(_LEFT + _WIDTH) / 2}" y="{_HEIGHT - 6}" text-anchor="middle" fill="#444">{escape(chart.x_label)}</text>'
    )


def _line(points: Sequence[tuple[float, float]], colour: str, name: str, number: int) -> str:
    path = " ".join(f"{left:.1f},{top:.1f}" for left, top in points)
    dots = "".join(f'<circle cx="{left:.1f}" cy="{top:.1f}" r="2.5" fill="{colour}"/>' for left, top in points)
    return (
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>{dots}'
        f'<text x="{_LEFT + 8}" y="{_TOP + 12 + 14 * number}" fill="{colour}">{escape(name)}</text>'
    )


def _decades(values: Sequence[float]) -> tuple[int, int]:
    low = math.floor(math.log10(min(values)))
    return low, max(low + 1, math.ceil(math.log10(max(values))))


def _position(value: float, decades: tuple[int, int]) -> float:
    return (math.log10(value) - decades[0]) / (decades[1] - decades[0])


def _format_seconds(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:,.0f} s"
    return f"{seconds * 1e3:g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:g} µs"
