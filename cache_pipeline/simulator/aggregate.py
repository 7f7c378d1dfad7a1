"""Counts and sums of calls by time bucket and group.

A figure belongs to the bucket in which it is emitted: an offer when the call is offered, an answer or abandon when that
happens, talk and after-call work when the call has ended. Every figure is therefore additive over disjoint intervals. The agent
is known from the answer onwards: an offer or an abandon has no userId.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from cache_pipeline.simulator.calls import Calls, Codes, Visibility
from cache_pipeline.simulator.facts import FACTS, Fact, Moment
from cache_pipeline.simulator.filters import Condition
from cache_pipeline.simulator.generated_figures import (
    MAX_LATENESS_DAYS,
    generated_codes,
    generated_fact,
    lateness_ms,
)
from cache_pipeline.simulator.intervals import Milliseconds
from cache_pipeline.simulator.organisation import Organisation
from cache_pipeline.simulator.truth import Truth

_DAY_MS = 86_400_000


@dataclass(frozen=True)
class AggregateQuery:
    """A query for counts and sums.

    Attributes:
        edges: Edges of the buckets, ascending, n + 1 for n buckets.
        group_by: Dimensions of the groups.
        facts: Names in FACTS; any other name is a generated fact.
        condition: Selects the calls; None for all.
        generated_dimensions: Generated dimensions that may be used in groups and in the condition.
        late: For facts that come days or weeks after the end of a call: whether they belong to the bucket of the `call`, whose
            figures grow meanwhile, or to the bucket of the `event`. None for all others.
    """

    edges: Milliseconds
    group_by: tuple[str, ...]
    facts: tuple[str, ...]
    condition: Condition | None = None
    generated_dimensions: tuple[str, ...] = ()
    late: Literal["call", "event"] | None = None


@dataclass(frozen=True)
class Column:
    """One fact by cell: ascending, unique cells, and statistics of the milliseconds in each."""

    cells: Codes
    count: Codes
    total: Milliseconds
    low: Milliseconds
    high: Milliseconds


@dataclass(frozen=True)
class Aggregate:
    """The result: a column for each fact. A cell is `bucket * groups + group`, so cells ascend in time."""

    edges: Milliseconds
    group_by: tuple[str, ...]
    radices: tuple[int, ...]
    columns: Mapping[str, Column]

    @property
    def groups(self) -> int:
        """The number of possible groups."""
        return int(np.prod(self.radices, dtype=np.int64))

    def cells(self) -> Codes:
        """Return the cells in which at least one fact occurs, in time order."""
        cells = [column.cells for column in self.columns.values()]
        return np.unique(np.concatenate([np.zeros(0, dtype=np.int64), *cells]))

    def at(self, fact: str, cells: Codes) -> Column:
        """Return the column of `fact` at exactly `cells`, zero in cells without it."""
        column = self.columns[fact]
        index = np.minimum(np.searchsorted(column.cells, cells), max(len(column.cells) - 1, 0))
        if not len(column.cells):
            zeros = np.zeros(len(cells), dtype=np.int64)
            return Column(cells, zeros, zeros, zeros, zeros)
        is_present = column.cells[index] == cells
        count, total, low, high = (
            np.where(is_present, values[index], 0) for values in (column.count, column.total, column.low, column.high)
        )
        return Column(cells, count, total, low, high)

    def bucket(self, cell: int) -> tuple[int, int]:
        """Return the half-open interval of the bucket of `cell`, in milliseconds."""
        bucket = cell // self.groups
        return int(self.edges[bucket]), int(self.edges[bucket + 1])

    def group(self, cell: int, organisation: Organisation) -> dict[str, str]:
        """Return the dimension values of `cell`, without dimensions that have no value."""
        rest = cell % self.groups
        group: dict[str, str] = {}
        for dimension, radix in zip(reversed(self.group_by), reversed(self.radices), strict=True):
            rest, code = divmod(rest, radix)
            if code < organisation.size(dimension):
                group[dimension] = organisation.values[dimension][code]
        return dict(reversed(group.items()))


@dataclass(frozen=True)
class _Events:
    """The selected events of one moment: their rows in the day's calls, their instants and dimension codes."""

    rows: Codes
    instants: Milliseconds
    codes: Mapping[str, Codes]


def _instants(calls: Calls, moment: Moment) -> Milliseconds:
    if moment is Moment.OFFERED:
        return calls.offered_ms
    return calls.resolved_ms if moment is Moment.RESOLVED else calls.ended_ms


def dimension_codes(calls: Calls, organisation: Organisation, agent: Codes) -> dict[str, Codes]:
    """Return the code of each dimension for each call; `agent` is the agent at the moment in question."""
    constant = np.zeros(len(calls.offered_ms), dtype=np.int64)
    in_flow = calls.flow_ms > 0
    return {
        "queueId": calls.queue,
        "mediaType": calls.media,
        "userId": agent,
        "divisionId": calls.queue % len(organisation.divisions),
        "direction": constant,
        "originatingDirection": constant,
        "flowId": np.where(in_flow, calls.queue % organisation.size("flowId"), organisation.size("flowId")),
        "flowType": np.where(in_flow, 0, 1),
    }


def _events(
    calls: Calls, moment: Moment, query: AggregateQuery, organisation: Organisation, visibility: Visibility | None
) -> _Events:
    instants = _instants(calls, moment)
    visible_from = instants if query.late is None else instants + lateness_ms(calls)
    if query.late == "event":
        instants = visible_from
    selected = (instants >= query.edges[0]) & (instants < query.edges[-1])
    if moment is Moment.ENDED:
        selected &= ~calls.abandoned
    selected &= calls.visible(visible_from, visibility)
    no_agent = np.full(len(instants), organisation.size("userId"), dtype=np.int64)
    codes = dimension_codes(calls, organisation, no_agent if moment is Moment.OFFERED else calls.agent)
    codes |= {name: generated_codes(calls, name, organisation.size(name)) for name in query.generated_dimensions}
    if query.condition is not None:
        selected &= query.condition.holds(codes, len(instants))
    rows = np.flatnonzero(selected)
    return _Events(rows, instants[rows], {dimension: values[rows] for dimension, values in codes.items()})


def _cells(events: _Events, query: AggregateQuery, radices: tuple[int, ...]) -> Codes:
    cells = np.searchsorted(query.edges, events.instants, side="right").astype(np.int64) - 1
    absent = np.zeros(len(cells), dtype=np.int64)
    for dimension, radix in zip(query.group_by, radices, strict=True):
        cells = cells * radix + events.codes.get(dimension, absent)
    return cells


def _reduce(cells: Codes, count: Codes, total: Milliseconds, low: Milliseconds, high: Milliseconds) -> Column:
    """Return the column with equal `cells` combined."""
    order = np.argsort(cells, kind="stable")
    ordered = cells[order]
    firsts = np.flatnonzero(np.diff(ordered, prepend=-1))
    if not len(firsts):
        return Column(ordered, count, total, low, high)
    return Column(
        ordered[firsts],
        np.add.reduceat(count[order], firsts),
        np.add.reduceat(total[order], firsts),
        np.minimum.reduceat(low[order], firsts),
        np.maximum.reduceat(high[order], firsts),
    )


def _day_columns(
    calls: Calls,
    query: AggregateQuery,
    radices: tuple[int, ...],
    organisation: Organisation,
    visibility: Visibility | None,
) -> Iterator[tuple[str, Column]]:
    facts = {name: _fact(name) for name in query.facts}
    for moment in {fact.moment for fact in facts.values()}:
        events = _events(calls, moment, query, organisation, visibility)
        cells = _cells(events, query, radices)
        for name, fact in facts.items():
            if fact.moment is moment:
                applies = fact.applies(calls)[events.rows]
                amount = fact.amount(calls)[events.rows][applies]
                yield name, _reduce(cells[applies], np.ones(len(amount), dtype=np.int64), amount, amount, amount)


def _fact(name: str) -> Fact:
    return FACTS.get(name) or generated_fact(name)


def _merge(columns: list[Column]) -> Column:
    cells, count, total, low, high = (
        np.concatenate([np.zeros(0, dtype=np.int64), *(getattr(column, field) for column in columns)])
        for field in ("cells", "count", "total", "low", "high")
    )
    return _reduce(cells, count, total, low, high)


def aggregate(
    truth: Truth, organisation: Organisation, query: AggregateQuery, visibility: Visibility | None
) -> Aggregate:
    """Return the figures of `query`, one day of calls at a time, so that memory grows with the answer and not the interval.

    Args:
        truth: The calls.
        organisation: The organisation whose dimensions are used.
        query: The query.
        visibility: What is visible; None for everything, including the future.
    """
    # One more than the values: the last code stands for "no value".
    radices = tuple(organisation.size(dimension) + 1 for dimension in query.group_by)
    parts: dict[str, list[Column]] = {name: [] for name in query.facts}
    earlier_ms = MAX_LATENESS_DAYS * _DAY_MS if query.late == "event" else 0
    for calls in truth.days_overlapping(int(query.edges[0]) - earlier_ms, int(query.edges[-1])):
        for name, column in _day_columns(calls, query, radices, organisation, visibility):
            parts[name].append(column)
    return Aggregate(query.edges, query.group_by, radices, {name: _merge(columns) for name, columns in parts.items()})
