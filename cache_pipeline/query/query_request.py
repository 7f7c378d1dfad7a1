"""A request for a report's rows: an interval, with optional overrides (fewer dimensions, a filter, longer buckets …)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
from cache_pipeline.query.schema import Column, to_snake_case
from cache_pipeline.query.series import CanonicalQuery, make_series
from cache_pipeline.query.zones import canonical_zone, has_same_buckets, time_zone

#: Almost three years of quarter-hours. Anything longer is an extract, not a query.
MAX_BUCKETS = 100_000


@dataclass(frozen=True)
class QueryOverrides:
    """The fields in which a query differs from its report; None means as declared.

    Attributes:
        group_by: Fewer dimensions; an empty tuple gives totals.
        metrics: Fewer metrics.
        granularity: Longer buckets, as an ISO 8601 period.
        time_zone: The IANA name of the zone of days and hours.
        filters: A filter in addition to the report's own.
    """

    group_by: tuple[str, ...] | None = None
    metrics: tuple[str, ...] | None = None
    granularity: str | None = None
    time_zone: str | None = None
    filters: Filter | None = None


NO_OVERRIDES = QueryOverrides()


@dataclass(frozen=True)
class QueryRequest:
    """A query that the rows of a declared report can answer.

    Attributes:
        declared: The report whose series is fetched and stored.
        requested: The report as it would be declared for exactly this query; the same object if there are no overrides.
        interval: The requested interval, in whole buckets of ``requested``.
    """

    declared: Report
    requested: Report
    interval: Interval

    @property
    def is_rolled_up(self) -> bool:
        """Whether the answer is computed from the declared rows instead of being those rows."""
        return self.requested is not self.declared

    def canonical_query(self, tenant: str) -> CanonicalQuery:
        """Return the query in canonical form, equal for every spelling of it (G6)."""
        rollup_source = make_series(self.declared, tenant) if self.is_rolled_up else None
        return CanonicalQuery(make_series(self.requested, tenant), self.interval, rollup_source)

    def cache_key(self, tenant: str, ttl_tier: str) -> str:
        """Return the cache key (G7)."""
        return self.canonical_query(tenant).cache_key(ttl_tier)


def resolve_request(
    report: Report,
    interval: str | Interval,
    overrides: QueryOverrides,
    columns: Sequence[Column],
    *,
    expand: bool = False,
) -> QueryRequest:
    """Check a query against its report and return the request that answers it.

    Args:
        report: The declared report.
        interval: An interval, or ISO 8601 text. Ends without an offset are read in the requested time zone.
        overrides: The fields in which the query differs from the report.
        columns: The report's columns, which say what can be rolled up.
        expand: Whether an interval that cuts a bucket is widened to whole buckets instead of refused.

    Raises:
        InvalidInterval: The interval is reversed, open or too long, or it cuts a bucket.
        InvalidQuery: A field cannot be answered; the error names it and says what to write instead.
    """
    # Parse the interval in the requested zone even if both zones have the same buckets: a day still starts elsewhere.
    parse_zone = _load_zone(overrides.time_zone or report.time_zone)
    resolved = Interval.parse(interval, parse_zone) if isinstance(interval, str) else interval
    requested = _apply_overrides(report, overrides)
    step, zone = requested.step, requested.zone
    if expand:
        resolved = expand_to_steps(resolved, step, zone)
    if resolved.length / step.nominal_length > MAX_BUCKETS:
        raise InvalidInterval(
            f"interval {resolved} has more than {MAX_BUCKETS:,} buckets of {requested.granularity}: ask for a shorter "
            "one, or longer buckets"
        )
    if not is_aligned(resolved, step, zone):
        raise InvalidInterval(
            f"interval {resolved} cuts a bucket of {step} in {requested.time_zone}: ask for "
            f"{expand_to_steps(resolved, step, zone)}"
        )
    if requested is not report:
        for field, problem in find_rollup_problems(report, requested, columns):
            raise InvalidQuery(field, problem)
        check_bucket_alignment(report, requested, resolved)
    return QueryRequest(report, requested, resolved)


@lru_cache(maxsize=4096)
def _apply_overrides(report: Report, overrides: QueryOverrides) -> Report:
    """Return the report as a query requests it; cached, because callers often change only the interval."""
    group_by = _resolve_names("group_by", overrides.group_by, report.group_by, report)
    metrics = _resolve_names("metrics", overrides.metrics, report.metrics, report)
    step = _resolve_step(report, overrides.granularity)
    return _with_fields(
        report,
        group_by,
        metrics,
        str(step),
        _different_zone(report, step, overrides.time_zone) or report.time_zone,
        _combine_filters(report, overrides.filters) if overrides.filters else report.filters,
    )


@lru_cache(maxsize=1024)
def _with_fields(
    report: Report,
    group_by: tuple[str, ...],
    metrics: tuple[str, ...],
    granularity: str,
    time_zone: str,
    filters: Filter,
) -> Report:
    """Return the report with these fields, or the report itself if none differs; cached, so that reports stay identical."""
    fields: dict[str, object] = {
        "group_by": group_by,
        "metrics": metrics,
        "granularity": granularity,
        "time_zone": time_zone,
        "filters": filters,
    }
    changed = {name: value for name, value in fields.items() if value != getattr(report, name)}
    return report.model_copy(update=changed) if changed else report


def _resolve_names(
    field: str, requested: tuple[str, ...] | None, declared: tuple[str, ...], report: Report
) -> tuple[str, ...]:
    """Return the requested names as declared, sorted and without duplicates. Column names are accepted too."""
    if requested is None:
        return declared
    found: set[str] = set()
    for name in requested:
        match = name if name in declared else next((each for each in declared if to_snake_case(each) == name), None)
        if match is None:
            raise InvalidQuery(
                field,
                f"{_describe_unknown(name, declared)}: {report.name} has {', '.join(declared) or 'none'}",
            )
        found.add(match)
    if field == "metrics" and not found:
        raise InvalidQuery(field, f"is empty: choose from the metrics of {report.name}, {', '.join(declared)}")
    return declared if len(found) == len(declared) else tuple(sorted(found))


def _describe_unknown(name: str, known: Sequence[str]) -> str:
    near = get_close_matches(name[:80], known, n=1)
    return f"unknown name {name[:80]!r}" + (f" (did you mean {near[0]}?)" if near else "")


def _resolve_step(report: Report, granularity: str | None) -> Step:
    if granularity is None or granularity == report.granularity:
        return report.step
    try:
        step = Step.parse(granularity)
    except QueryError as error:
        raise InvalidQuery("granularity", str(error)) from error
    if step != report.step and not report.step.divides(step):
        raise InvalidQuery(
            "granularity",
            f"{report.name} has buckets of {report.granularity}, which do not divide {step}: ask for a multiple of "
            f"{report.granularity}",
        )
    return step


def _load_zone(name: str) -> ZoneInfo:
    try:
        return time_zone(name)
    except QueryError as error:
        raise InvalidQuery("time_zone", str(error)) from error


def _different_zone(report: Report, step: Step, name: str | None) -> str | None:
    """Return the canonical name of the zone if its buckets differ from the report's, else None."""
    if name is None or name == report.time_zone:
        return None
    return None if has_same_buckets(step.minutes, name, report.time_zone) else canonical_zone(name)


def filter_dimensions(report: Report, names: Iterable[str]) -> dict[str, str]:
    """Return those names of dimensions in a filter that the report declares differently, each with its declared name.

    Raises:
        InvalidQuery: The report's rows cannot be filtered by one of them.
    """
    known = report.filters.dimensions.union(report.group_by)
    found: dict[str, str] = {}
    for name in sorted(set(names) - known):
        match = next((each for each in known if to_snake_case(each) == name), None)
        if match is None:
            raise InvalidQuery(
                "filters",
                f"{_describe_unknown(name, sorted(known))}: rows of {report.name} can be filtered by "
                f"{', '.join(report.group_by) or 'no dimension'}",
            )
        found[name] = match
    return found


def _combine_filters(report: Report, filters: Filter) -> Filter:
    names = filter_dimensions(report, filters.dimensions)
    try:
        return report.filters.intersect(filters.rename_dimensions(names) if names else filters)
    except QueryError as error:
        raise InvalidQuery("filters", f"{error}; {report.name} is declared with its own filter") from error
