"""Curves on two logarithmic axes as SVG: where the cost of one more is constant, they rise by as much as they go along."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _FOOT = 460, 300, 56, 16, 34, 40
_COLOURS = ("#4f43dd", "#0a8f6a", "#c2541b", "#9a1f6a", "#5f6b7a")


@dataclass(frozen=True)
class Chart:
    """Seconds by size.

    Attributes:
        title: what is measured.
        along: what there is more of.
        curves: name to (size, seconds) points.
        bound: seconds that must not be passed.
    """

    title: str
    along: str
    curves: Mapping[str, Sequence[tuple[float, float]]]
    bound: float | None = None


def write(charts: Sequence[Chart], path: Path) -> Path:
    """Draws the charts side by side."""
    body = "".join(
        f'<g transform="translate({number * _WIDTH},0)">{_drawn(chart)}</g>' for number, chart in enumerate(charts)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH * len(charts)}" height="{_HEIGHT}" '
        f'viewBox="0 0 {_WIDTH * len(charts)} {_HEIGHT}" font-family="sans-serif" font-size="11">'
        f'<rect width="100%" height="100%" fill="#fff"/>{body}</svg>\n',
        encoding="utf-8",
    )
    return path


def _drawn(chart: Chart) -> str:
    points = [point for curve in chart.curves.values() for point in curve]
    sizes, seconds = [size for size, _ in points], [max(second, 1e-5) for _, second in points]
    across = _decades(sizes)
    up = _decades([*seconds, *([chart.bound] if chart.bound else [])])

    def x(size: float) -> float:
        return _LEFT + _place(size, across) * (_WIDTH - _LEFT - _RIGHT)

    def y(second: float) -> float:
        return _HEIGHT - _FOOT - _place(max(second, 1e-5), up) * (_HEIGHT - _FOOT - _TOP)

    grid = "".join(
        f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(10.0**tick):.1f}" y2="{y(10.0**tick):.1f}" stroke="#e4e6ea"/>'
        f'<text x="{_LEFT - 6}" y="{y(10.0**tick) + 4:.1f}" text-anchor="end" fill="#666">{_spoken(10.0**tick)}</text>'
        for tick in range(up[0], up[1] + 1)
    ) + "".join(
        f'<text x="{x(10.0**tick):.1f}" y="{_HEIGHT - _FOOT + 16}" text-anchor="middle" fill="#666">{10**tick:,}</text>'
        for tick in range(across[0], across[1] + 1)
    )
    bound = (
        f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(chart.bound):.1f}" y2="{y(chart.bound):.1f}" '
        'stroke="#c33" stroke-dasharray="4 3"/>'
        if chart.bound
        else ""
    )
    lines = "".join(
        _line([(x(size), y(second)) for size, second in curve], _COLOURS[number % len(_COLOURS)], name, number)
        for number, (name, curve) in enumerate(chart.curves.items())
    )
    return (
        f'<text x="{_LEFT}" y="16" font-weight="bold" fill="#222">{escape(chart.title)}</text>{grid}{bound}{lines}'
        f'<text x="{(_LEFT + _WIDTH) / 2}" y="{_HEIGHT - 6}" text-anchor="middle" fill="#444">{escape(chart.along)}</text>'
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


def _place(value: float, decades: tuple[int, int]) -> float:
    return (math.log10(value) - decades[0]) / (decades[1] - decades[0])


def _spoken(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:,.0f} s"
    return f"{seconds * 1e3:g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:g} µs"
