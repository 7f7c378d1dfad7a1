"""Render a result as a table for the terminal."""

from rich import box
from rich.table import Table

from benchmarks.result import Result, Row


def render_table(result: Result) -> Table:
    """Return a table with a line per row and a column per peer."""
    peers = list(dict.fromkeys(peer for row in result.rows for peer in row.peers))
    table = Table(title=result.name, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("what", overflow="fold", ratio=1)
    table.add_column("unit")
    for name in ("ours", *peers, "limit", "ratio"):
        table.add_column(name, justify="right")
    table.add_column("target", no_wrap=True)
    table.add_column("met")
    for row in result.rows:
        figures = [row.ours, *(row.peers.get(peer) for peer in peers), row.limit, row.ratio]
        table.add_row(row.what, row.unit, *map(_format, figures), str(row.target or ""), _format_verdict(row))
    return table


def _format(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 1000 else f"{value:.3g}"


def _format_verdict(row: Row) -> str:
    return {None: "", True: "[green]yes[/green]", False: "[bold red]NO[/bold red]"}[row.met]
