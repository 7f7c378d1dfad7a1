"""Options of `plan` and `query` that select part of a report."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import click
from pydantic import ValidationError

from cache_pipeline.errors import CommandError
from cache_pipeline.query.filters import Filter
from cache_pipeline.query.query_request import QueryOverrides

_OPTIONS = (
    click.option("--group-by", metavar="NAMES", help="Comma-separated dimensions; '' for totals."),
    click.option("--metrics", metavar="NAMES", help="Comma-separated metrics."),
    click.option("--granularity", metavar="PERIOD", help="Length of the buckets: PT1H, P1D, P1W or P1M."),
    click.option("--time-zone", metavar="ZONE", help="Time zone of the days and hours."),
    click.option(
        "--filter",
        "filters",
        multiple=True,
        metavar="CONDITION",
        help="queue=a,b or queue!=a, or a filter as JSON. Repeated conditions must all hold.",
    ),
)


def query_overrides(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options to a command, which gets them as ``overrides``."""

    @wraps(command)
    def read(
        *,
        group_by: str | None,
        metrics: str | None,
        granularity: str | None,
        time_zone: str | None,
        filters: Sequence[str],
        **rest: Any,
    ) -> None:
        overrides = QueryOverrides(_names(group_by), _names(metrics), granularity, time_zone, _filter(list(filters)))
        command(overrides=overrides, **rest)

    for option in reversed(_OPTIONS):
        read = option(read)
    return read


def _names(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(name.strip() for name in text.split(",") if name.strip())


def _filter(conditions: list[str]) -> Filter | None:
    if not conditions:
        return None
    parts = [_condition(text) for text in conditions]
    document = {
        "predicates": [part for part in parts if "dimension" in part],
        "clauses": [part for part in parts if "dimension" not in part],
    }
    try:
        return Filter.parse(document)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False)[0]["msg"].removeprefix("Value error, ")
        raise CommandError(f"--filter {' '.join(conditions)[:200]}: {problem}") from error


def _condition(text: str) -> dict[str, Any]:
    if text.lstrip().startswith("{"):
        try:
            found: dict[str, Any] = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise CommandError(f"--filter {text[:80]!r} is not JSON: {error}") from error
        return found
    name, equals, values = text.partition("=")
    if not equals or not name.rstrip("!").strip():
        raise CommandError(f"--filter {text[:80]!r} is not a condition; write queue=a,b or queue!=a")
    operator = "notIn" if name.endswith("!") else "in"
    return {"dimension": name.rstrip("!").strip(), "operator": operator, "values": values.split(",")}
