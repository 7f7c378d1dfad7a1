"""One request for a report's rows: an interval, and maybe fewer dimensions or metrics, a filter, longer buckets, a zone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from zoneinfo import ZoneInfo

from cache_pipeline.errors import InvalidInterval, InvalidQuery, QueryError
from cache_pipeline.query.calendar import Step, expand_to_steps, is_aligned
from cache_pipeline.query.filters import Filter
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.report import Report
from cache_pipeline.query.rollup import check_bucket_alignment, find_rollup_problems
from cache_pipeline.query.schema import Column, snake_case
from cache_pipeline.query.series import CanonicalQuery, make_series
from cache_pipeline.query.zones import canonical_zone, has_same_buckets, time_zone

#: Some three years of quarter-hours; what is longer is an extract, not a query.
MAX_BUCKETS = 100_000


@dataclass(frozen=True)
class QueryOverrides:
    """What a query asks for otherwise than its report declares; None means as declared.

    Attributes:
        group_by: fewer dimensions; none at all gives totals.
        metrics: fewer metrics.
        granularity: longer buckets, as an ISO 8601 period.
        time_zone: IANA name of the zone whose days and hours are meant.
        filters: rows to keep, besides those that the report keeps anyway.
    """

    group_by: tuple[str, ...] | None = None
    metrics: tuple[str, ...] | None = None
    granularity: str | None = None
    time_zone: str | None = None
    filters: Filter | None = None


NO_OVERRIDES = QueryOverrides()


@dataclass(frozen=True)
class QueryRequest:
    """A question that rows of a declared report answer.

    Attributes:
        declared: the report whose series is fetched and kept.
        asked: the report as it would be declared for exactly this question; the same one where nothing is narrowed.
        interval: whole buckets of ``asked``.
    """

    declared: Report
    requested: Report
    interval: Interval

    @property
    def is_rolled_up(self) -> bool:
        """Whether the answer is made of the declared rows, and not just those."""
        return self.requested is not self.declared

    def canonical_query(self, tenant: str) -> CanonicalQuery:
        """What the answer is kept under: equal for every spelling of the question (G6)."""
        made_of = make_series(self.declared, tenant) if self.is_rolled_up else None
        return CanonicalQuery(make_series(self.requested, tenant), self.interval, made_of)

    def cache_key(self, tenant: str, ttl_tier: str) -> str:
        """The cache key (G7)."""
        return self.canonical_query(tenant).cache_key(ttl_tier)


def resolve_request(
    report: Report, interval: str | Interval, overrides: QueryOverrides, columns: Sequence[Column]
) -> QueryRequest:
    """Hold a question against the report that it is asked of.

    Args:
        report: the declaration.
        interval: as an interval, or as ISO 8601 text; ends without an offset are read in the zone that is asked for.
        overrides: what is asked for otherwise than declared.
        columns: of the report, which say what can be rolled up.

    Raises:
        InvalidInterval: reversed, open, cutting a bucket, or too long.
        InvalidQuery: naming the field, what is wrong with it, and what there is.
    """
    # The zone that was named, also where it makes no difference to the buckets: it does to where a day begins.
    zone = _zone(overrides.time_zone or report.time_zone)
    span = Interval.parse(interval, zone) if isinstance(interval, str) else interval
    asked = _narrowed(report, overrides)
    step, asked_zone = asked.step, asked.zone
    if span.length / step.nominal_length > MAX_BUCKETS:
        raise InvalidInterval(
            f"interval {span} has more than {MAX_BUCKETS:,} buckets of {asked.granularity}: ask for a shorter one, or "
            "longer buckets"
        )
    if not is_aligned(span, step, asked_zone):
        raise InvalidInterval(
            f"interval {span} cuts a bucket of {step} in {asked.time_zone}: ask for "
            f"{expand_to_steps(span, step, asked_zone)}"
        )
    if asked is not report:
        for field, problem in find_rollup_problems(report, asked, columns):
            raise InvalidQuery(field, problem)
        check_bucket_alignment(report, asked, span)
    return QueryRequest(report, asked, span)


def _narrowed(report: Report, narrowing: QueryOverrides) -> Report:
    group_by = _known("group_by", narrowing.group_by, report.group_by, report)
    metrics = _known("metrics", narrowing.metrics, report.metrics, report)
    step = _longer(report, narrowing.granularity)
    return _declared_as(
        report,
        group_by,
        metrics,
        str(step),
        _other_zone(report, step, narrowing.time_zone) or report.time_zone,
        _also(report, narrowing.filters) if narrowing.filters else report.filters,
    )


@lru_cache(maxsize=1024)
def _declared_as(
    report: Report,
    group_by: tuple[str, ...],
    metrics: tuple[str, ...],
    granularity: str,
    time_zone: str,
    filters: Filter,
) -> Report:
    """The report with other fields, one object for as long as it is often asked for; itself where none is another."""
    fields: dict[str, object] = {
        "group_by": group_by,
        "metrics": metrics,
        "granularity": granularity,
        "time_zone": time_zone,
        "filters": filters,
    }
    changed = {name: value for name, value in fields.items() if value != getattr(report, name)}
    return report.model_copy(update=changed) if changed else report


def _known(field: str, wanted: tuple[str, ...] | None, held: tuple[str, ...], report: Report) -> tuple[str, ...]:
    """Names as declared, sorted and once each; the names of their columns are understood too."""
    if wanted is None:
        return held
    found: set[str] = set()
    for name in wanted:
        match = name if name in held else next((each for each in held if snake_case(each) == name), None)
        if match is None:
            raise InvalidQuery(field, f"{_unknown(name, held)} of {report.name}: it has {', '.join(held) or 'none'}")
        found.add(match)
    if field == "metrics" and not found:
        raise InvalidQuery(field, f"names none: {report.name} has {', '.join(held)}")
    return held if len(found) == len(held) else tuple(sorted(found))


def _unknown(name: str, held: Sequence[str]) -> str:
    near = get_close_matches(name[:80], held, n=1)
    return f"{name[:80]!r} is none" + (f" (did you mean {near[0]}?)" if near else "")


def _longer(report: Report, granularity: str | None) -> Step:
    if granularity is None or granularity == report.granularity:
        return report.step
    try:
        step = Step.parse(granularity)
    except QueryError as error:
        raise InvalidQuery("granularity", str(error)) from error
    if step != report.step and not report.step.divides(step):
        raise InvalidQuery(
            "granularity",
            f"{report.name} holds buckets of {report.granularity}, which do not make up {step}: ask for a multiple "
            f"of {report.granularity}",
        )
    return step


def _zone(name: str) -> ZoneInfo:
    try:
        return time_zone(name)
    except QueryError as error:
        raise InvalidQuery("time_zone", str(error)) from error


def _other_zone(report: Report, step: Step, name: str | None) -> str | None:
    """The zone where it makes a difference to the buckets; None where it does not."""
    if name is None or name == report.time_zone:
        return None
    return None if has_same_buckets(step.minutes, name, report.time_zone) else canonical_zone(name)


def _also(report: Report, filters: Filter) -> Filter:
    held = report.filters.dimensions.union(report.group_by)
    names: dict[str, str] = {}
    for name in sorted(filters.dimensions - held):
        match = next((each for each in held if snake_case(each) == name), None)
        if match is None:
            raise InvalidQuery(
                "filters",
                f"{_unknown(name, sorted(held))} of the dimensions that {report.name} has rows by: filter by "
                f"{', '.join(report.group_by) or 'none'}",
            )
        names[name] = match
    try:
        return report.filters.intersect(filters.rename_dimensions(names) if names else filters)
    except QueryError as error:
        raise InvalidQuery("filters", f"{error}; {report.name} is declared with a filter of its own") from error
