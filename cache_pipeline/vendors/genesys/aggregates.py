"""Aggregate queries of Genesys Cloud: the request body, and the answer as rows; the same for every family.

The vendor omits empty groups, buckets and metrics. A figure belongs to the bucket in which it is emitted. Conversations and flows
come split by medium even if the query does not group by it; such rows carry the keys that were not asked for, and are folded
when the whole answer is known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta

from cache_pipeline.errors import SchemaMismatch
from cache_pipeline.lazy_imports import pa
from cache_pipeline.query.dnf import ValueSet
from cache_pipeline.query.filters import Filter
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import Column, Fold, rows_to_table, to_arrow_schema, to_snake_case
from cache_pipeline.vendors.base import ResultPage
from cache_pipeline.vendors.columns import key_column
from cache_pipeline.vendors.genesys.metrics import (
    METRIC_STATES,
    ORGANIZATION_PRESENCE,
    BucketStats,
    MetricKey,
    MetricReader,
    check_metrics,
    metric_columns,
)
from cache_pipeline.vendors.genesys.permissions import AGGREGATE_PERMISSIONS
from cache_pipeline.vendors.genesys.vendor_filter import all_predicates, vendor_filter
from cache_pipeline.vendors.json_body import (
    read_interval,
    read_mapping,
    read_mappings,
    read_optional_text,
    read_text,
    read_texts,
)

AGGREGATES_PAGE_SIZE = 1000
#: Dimensions that the vendor gives as a metric's qualifier, and by its mapping of presences.
PRESENCE_ID, SYSTEM_PRESENCE = "organizationPresenceId", "systemPresence"
#: Families that count by the day of creation by default: a score of today would change a day of weeks ago.
EVENT_TIME_FAMILIES = frozenset({"evaluations", "surveys"})
#: The age from which we call their figures final. People release and correct them for hours.
_EVENT_TIME_DELAY = timedelta(days=1)
SPLIT_DIMENSION = "mediaType"
#: Families whose groups the vendor was seen to split by medium unasked.
SPLIT_FAMILIES = frozenset({"conversations", "flows"})
_MAX_USER_PREDICATES = 100

#: A conversation event has at most one value of each of these dimensions. Of the others (skills, divisions, groups) it
#: may have several.
_SINGLE_VALUED = frozenset(
    {
        *("direction", "flowId", "flowType", "mediaType", "messageType", "originatingDirection", "provider", "purpose"),
        *("queueId", "userId", "organizationPresenceId", "systemPresence"),
    }
)


def aggregates_path(report: Report) -> str:
    """Return the path of the report's aggregates family."""
    return f"/api/v2/analytics/{report.query_type}/aggregates"


def check_aggregates(report: Report) -> Iterable[tuple[str, str]]:
    """Yield unknown families and metrics as (field, problem)."""
    if report.query_type not in AGGREGATE_PERMISSIONS:
        families = ", ".join(AGGREGATE_PERMISSIONS)
        yield "query_type", f"unknown aggregates family {report.query_type!r}; expected one of {families}"
        return
    if report.query_type == "users":
        yield from _check_users(report)
    yield from check_metrics(report)
    yield from _check_split(report)


def _check_split(report: Report) -> Iterable[tuple[str, str]]:
    """Yield the metrics that cannot be folded over a dimension by which the vendor splits the groups unasked."""
    dimension = SPLIT_DIMENSION
    is_one_group = len(report.filters.named_values(dimension) or ()) == 1
    if report.query_type not in SPLIT_FAMILIES or dimension in report.group_by or is_one_group:
        return
    known = [name for name in report.metrics if name[:1] in ("n", "t", "o")]
    fixed = dict.fromkeys(column.source for column in metric_columns(known) if column.fold is Fold.none)
    if fixed:
        yield (
            "metrics",
            f"{', '.join(fixed)} cannot be added up over media, and Genesys splits every group by {dimension}: add "
            f"{dimension} to group_by, or filter by one {dimension}",
        )


def _check_users(report: Report) -> Iterable[tuple[str, str]]:
    known = (*METRIC_STATES, ORGANIZATION_PRESENCE)
    if unknown := [name for name in report.metrics if name not in known and name[:1] in ("n", "t")]:
        yield "metrics", f"unknown metrics of users {', '.join(unknown)}; expected {', '.join(known)}"
    if ORGANIZATION_PRESENCE not in report.metrics:
        if set(report.group_by) - {"userId"}:
            yield "group_by", "users can only be grouped by userId; remove the other dimensions"
    elif report.metrics != (ORGANIZATION_PRESENCE,):
        yield (
            "metrics",
            f"{ORGANIZATION_PRESENCE} has a row for each presence, the others have one for each user: declare them in another report",
        )
    elif PRESENCE_ID not in report.group_by or set(report.group_by) - {"userId", PRESENCE_ID, SYSTEM_PRESENCE}:
        yield (
            "group_by",
            f"{ORGANIZATION_PRESENCE} is grouped by {PRESENCE_ID} and, if you like, by {SYSTEM_PRESENCE} and userId",
        )
    if any(predicate.dimension != "userId" for predicate in all_predicates(report.filters)):
        yield "filters", "users can only be filtered by userId; remove the other dimensions"


def aggregate_columns(report: Report) -> tuple[Column, ...]:
    """Return the dimensions, then the statistics of each metric; durations are in milliseconds."""
    return (
        *(key_column(name, is_multivalued=name not in _SINGLE_VALUED) for name in report.group_by),
        *metric_columns(report.metrics),
    )


def split_by_users(report: Report) -> tuple[Report, ...]:
    """Return the report as one for each hundred users that it names, because a query may name no more."""
    users = report.filters.named_values("userId") if report.query_type == "users" else None
    if users is None or len(users) <= _MAX_USER_PREDICATES:
        return (report,)
    return tuple(
        report.model_copy(
            update={
                "filters": Filter.from_conjunctions(
                    ({"userId": ValueSet(frozenset(users[first : first + _MAX_USER_PREDICATES]))},)
                )
            }
        )
        for first in range(0, len(users), _MAX_USER_PREDICATES)
    )


def aggregate_body(report: Report, interval: Interval) -> dict[str, object]:
    """Return the request body of a query; a job also needs its page size."""
    body: dict[str, object] = {
        "interval": str(interval),
        "granularity": report.granularity,
        "timeZone": report.time_zone,
        "groupBy": [name for name in report.group_by if name not in (PRESENCE_ID, SYSTEM_PRESENCE)],
        "metrics": list(report.metrics),
    }
    if report.query_type in EVENT_TIME_FAMILIES:
        body["alternateTimeDimension"] = "eventTime"
    if report.filters:
        body["filter"] = vendor_filter(report.filters)
    return body


def aggregate_page(page: Mapping[str, object], report: Report, part: int | None = None) -> ResultPage:
    """Return the rows of a page; the vendor says no watermark.

    Args:
        page: The page.
        report: The report's declaration.
        part: The number of the query, if there were several for different users; their figures are then added up.

    Raises:
        SchemaMismatch: The page does not match the query.
    """
    metrics = MetricReader(report.metrics)
    rows: list[Mapping[str, object]] = []
    split: list[str | None] = []
    for result in read_mappings(page, "results"):
        read = list(
            _presence_rows(result, report, _system_presences(page))
            if ORGANIZATION_PRESENCE in report.metrics
            else _rows(result, report, metrics)
        )
        rows += read
        unasked = _unasked_keys(read_mapping(result, "group"), report)
        split += [unasked if part is None or "userId" in report.group_by else f"userId={part}"] * len(read)
    return ResultPage(
        rows_to_table(rows, to_arrow_schema(aggregate_columns(report))),
        watermark=None,
        delay=_EVENT_TIME_DELAY if report.query_type in EVENT_TIME_FAMILIES else timedelta(0),
        split=pa.array(split, pa.string()) if any(split) else None,
    )


def _unasked_keys(group: Mapping[str, object], report: Report) -> str | None:
    """Return the keys of a group that the query did not ask for; None if there are none."""
    unasked = {name: value for name, value in sorted(group.items()) if name not in report.group_by}
    if multivalued := sorted(unasked.keys() - _SINGLE_VALUED):
        raise SchemaMismatch(
            f"the vendor split the groups by {', '.join(multivalued)}, of which an event may have several values, so "
            f"they cannot be folded: add {', '.join(multivalued)} to group_by"
        )
    return "\n".join(f"{name}={value}" for name, value in unasked.items()) or None


def _rows(result: Mapping[str, object], report: Report, metrics: MetricReader) -> Iterable[Mapping[str, object]]:
    group = read_mapping(result, "group")
    dimensions = {to_snake_case(name): group.get(name) for name in report.group_by}
    for bucket in read_mappings(result, "data"):
        interval = read_interval(bucket, "interval")
        yield {
            "interval_start": interval.start,
            "interval_end": interval.end,
            **dimensions,
            **metrics.values(_bucket_stats(bucket)),
        }


def _system_presences(page: Mapping[str, object]) -> dict[str, str]:
    """Return the system presence of each of the organisation's presences, from the mapping that the page carries."""
    mapping = read_mapping(page, "systemToOrganizationMappings")
    return {presence: system for system in mapping for presence in read_texts(mapping, system)}


def _presence_rows(
    result: Mapping[str, object], report: Report, system_presences: Mapping[str, str]
) -> Iterable[Mapping[str, object]]:
    group = read_mapping(result, "group")
    for bucket in read_mappings(result, "data"):
        interval = read_interval(bucket, "interval")
        for (metric, presence), stats in _bucket_stats(bucket).items():
            if metric != ORGANIZATION_PRESENCE or presence is None:
                raise SchemaMismatch(f"metric {metric} with qualifier {presence!r} was not requested")
            values = {
                "userId": group.get("userId"),
                PRESENCE_ID: presence,
                SYSTEM_PRESENCE: system_presences.get(presence),
            }
            yield {
                "interval_start": interval.start,
                "interval_end": interval.end,
                **{to_snake_case(name): values[name] for name in report.group_by},
                to_snake_case(ORGANIZATION_PRESENCE): stats.get("sum"),
            }


def _bucket_stats(bucket: Mapping[str, object]) -> BucketStats:
    stats: dict[MetricKey, Mapping[str, object]] = {}
    for entry in read_mappings(bucket, "metrics"):
        key = read_text(entry, "metric"), read_optional_text(entry, "qualifier")
        if key in stats:
            raise SchemaMismatch(f"{key[0]} appears twice in one bucket")
        stats[key] = read_mapping(entry, "stats")
    return stats
