"""Row-level details of Genesys Cloud: conversations, their segments, and agents' presence and routing states.

A job returns everything that overlaps its interval, so two neighbouring intervals both return a long conversation. Each row
therefore belongs only to the bucket in which it begins, and rows that began before the interval are skipped. A row without an
end may still change, so its bucket and all later ones are provisional until it ends, or until it is so old
(`open_row_timeout`) that it will never end. When it ends after all, the job of a later interval contains it with its end: it is passed
on as ended, and its bucket is fetched again.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from cache_pipeline.lazy_imports import pa
from cache_pipeline.query.calendar import floor_to_step, list_buckets, next_boundary
from cache_pipeline.query.filters import Filter
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import Column, rows_to_table, to_arrow_schema, to_snake_case
from cache_pipeline.vendors.base import EndedRow
from cache_pipeline.vendors.columns import (
    CONVERSATION_COLUMNS,
    dimension_column,
    instant_column,
    key_column,
    row_metric_column,
)
from cache_pipeline.vendors.genesys.vendor_filter import (
    CONVERSATION_DIMENSIONS,
    all_predicates,
    check_detail_filters,
    split_by_level,
    vendor_filter,
)
from cache_pipeline.vendors.json_body import (
    read_instant,
    read_mappings,
    read_optional_text,
    read_text,
    read_texts,
    to_whole_number,
)

Source = Mapping[str, object]
Row = dict[str, object]
#: A page size known to work; the vendor does not document the maximum.
DETAILS_PAGE_SIZE = 1000
_USERS_PAGE_SIZE = 100


@dataclass(frozen=True)
class DetailRow:
    """A row of an entry, not yet assigned to a bucket.

    Attributes:
        start: When it began.
        end: When it ended; None while it is open.
        values: The values of all columns but those of the bucket.
    """

    start: datetime
    end: datetime | None
    values: Row


@dataclass(frozen=True)
class RowKind:
    """One kind of row-level report.

    Attributes:
        path: Path of the details that contain the rows.
        entries: Name of the list on a page.
        page_size: Entries on a page.
        columns: Columns other than the keys and the metrics.
        read: Returns an entry's rows.
        end: The column with the end of a row.
        metrics: Metrics that a report may declare; empty if it may declare any metric of a session.
        filter_list: List of the request body that filters belong in, but for those on whole conversations.
        is_held_to_filter: Whether each row must match the filter itself, because the vendor's filter selects conversations.
    """

    path: str
    entries: str
    page_size: int
    columns: tuple[Column, ...]
    read: Callable[[Source, Report], Iterator[DetailRow]]
    end: str
    metrics: tuple[str, ...] = ()
    filter_list: str = "segmentFilters"
    is_held_to_filter: bool = False


def _optional_instant(source: Source, name: str) -> datetime | None:
    return read_instant(source, name) if read_optional_text(source, name) else None


def _first(values: Iterable[str | None]) -> str | None:
    return next((value for value in values if value), None)


def _conversation(source: Source, report: Report) -> Iterator[DetailRow]:
    participants = read_mappings(source, "participants")
    sessions = [session for participant in participants for session in read_mappings(participant, "sessions")]
    segments = [segment for session in sessions for segment in read_mappings(session, "segments")]
    users = [user for participant in participants if (user := read_optional_text(participant, "userId"))]
    start, end = read_instant(source, "conversationStart"), _optional_instant(source, "conversationEnd")
    values: Row = {
        "conversation_id": read_text(source, "conversationId"),
        "conversation_start": start,
        "conversation_end": end,
        "originating_direction": read_optional_text(source, "originatingDirection"),
        "division_id": _first(read_texts(source, "divisionIds")),
        "media_type": _first(read_optional_text(session, "mediaType") for session in sessions),
        "first_queue_id": _first(read_optional_text(segment, "queueId") for segment in segments),
        "last_user_id": users[-1] if users else None,
        "ani": _first(read_optional_text(session, "ani") for session in sessions),
        "dnis": _first(read_optional_text(session, "dnis") for session in sessions),
        "agents": len(set(users)),
        **_session_metrics(sessions, report),
    }
    yield DetailRow(start, end, values)


def _session_metrics(sessions: Iterable[Source], report: Report) -> Row:
    sums = dict.fromkeys(report.metrics, 0)
    for session in sessions:
        for metric in read_mappings(session, "metrics"):
            name = read_text(metric, "name")
            if name in sums:
                sums[name] += to_whole_number(metric.get("value"), name)
    return {to_snake_case(name): total for name, total in sums.items()}


def _segments(source: Source, report: Report) -> Iterator[DetailRow]:
    for participant in read_mappings(source, "participants"):
        for session in read_mappings(participant, "sessions"):
            for number, segment in enumerate(read_mappings(session, "segments")):
                if not _matches_filter({**participant, **session, **segment}, report.filters):
                    continue
                start, end = read_instant(segment, "segmentStart"), _optional_instant(segment, "segmentEnd")
                values: Row = {
                    "conversation_id": read_text(source, "conversationId"),
                    "session_id": read_text(session, "sessionId"),
                    "segment_number": f"{number:04}",
                    "segment_type": read_optional_text(segment, "segmentType"),
                    "segment_start": start,
                    "segment_end": end,
                    "participant_id": read_optional_text(participant, "participantId"),
                    "purpose": read_optional_text(participant, "purpose"),
                    "user_id": read_optional_text(participant, "userId"),
                    "media_type": read_optional_text(session, "mediaType"),
                    "direction": read_optional_text(session, "direction"),
                    "queue_id": read_optional_text(segment, "queueId"),
                    "disconnect_type": read_optional_text(segment, "disconnectType"),
                    "wrap_up_code": read_optional_text(segment, "wrapUpCode"),
                    **{to_snake_case(metric): _milliseconds(start, end) for metric in report.metrics},
                }
                yield DetailRow(start, end, values)


def _matches_filter(source: Source, filters: Filter) -> bool:
    """Return whether a segment matches the conditions on segments; the vendor's filter has checked those on conversations."""
    return any(
        all(
            values.allows(source.get(dimension))
            for dimension, values in conjunction.items()
            if dimension not in CONVERSATION_DIMENSIONS
        )
        for conjunction in filters.conjunctions
    )


def _milliseconds(start: datetime, end: datetime | None) -> int | None:
    return None if end is None else round((end - start).total_seconds() * 1000)


def _state_reader(
    list_name: str, state: str, optional: tuple[str, ...]
) -> Callable[[Source, Report], Iterator[DetailRow]]:
    def read(source: Source, report: Report) -> Iterator[DetailRow]:
        for record in read_mappings(source, list_name):
            start, end = read_instant(record, "startTime"), _optional_instant(record, "endTime")
            if start == end:
                # It lasts for no time, and the next one may begin at the same instant, which is its key.
                continue
            values: Row = {
                "user_id": read_text(source, "userId"),
                "start_time": read_text(record, "startTime"),
                "end_time": end,
                to_snake_case(state): read_text(record, state),
                **{to_snake_case(name): read_optional_text(record, name) for name in optional},
                **{to_snake_case(metric): _milliseconds(start, end) for metric in report.metrics},
            }
            yield DetailRow(start, end, values)

    return read


ROW_KINDS: Mapping[str, RowKind] = {
    "conversations": RowKind(
        path="/api/v2/analytics/conversations/details",
        entries="conversations",
        page_size=DETAILS_PAGE_SIZE,
        columns=CONVERSATION_COLUMNS,
        read=_conversation,
        end="conversation_end",
    ),
    "segments": RowKind(
        path="/api/v2/analytics/conversations/details",
        entries="conversations",
        page_size=DETAILS_PAGE_SIZE,
        columns=(
            dimension_column("segment_type"),
            instant_column("segment_start"),
            instant_column("segment_end", "null while it lasts"),
            dimension_column("participant_id"),
            dimension_column("purpose"),
            dimension_column("user_id"),
            dimension_column("media_type"),
            dimension_column("direction"),
            dimension_column("queue_id"),
            dimension_column("disconnect_type"),
            dimension_column("wrap_up_code"),
        ),
        read=_segments,
        end="segment_end",
        metrics=("tSegmentDuration",),
        is_held_to_filter=True,
    ),
    "presence": RowKind(
        path="/api/v2/analytics/users/details",
        entries="userDetails",
        page_size=_USERS_PAGE_SIZE,
        columns=(
            instant_column("end_time", "null while it lasts"),
            dimension_column("system_presence"),
            dimension_column("organization_presence_id"),
        ),
        read=_state_reader("primaryPresence", "systemPresence", ("organizationPresenceId",)),
        end="end_time",
        metrics=("tSystemPresence",),
        filter_list="userFilters",
    ),
    "routing": RowKind(
        path="/api/v2/analytics/users/details",
        entries="userDetails",
        page_size=_USERS_PAGE_SIZE,
        columns=(instant_column("end_time", "null while it lasts"), dimension_column("routing_status")),
        read=_state_reader("routingStatus", "routingStatus", ()),
        end="end_time",
        metrics=("tAgentRoutingStatus",),
        filter_list="userFilters",
    ),
}


def row_kind(report: Report) -> RowKind:
    """Return the kind of a row-level report."""
    return ROW_KINDS[report.rows or ""]


def check_rows(report: Report) -> Iterable[tuple[str, str]]:
    """Yield a family, metrics, delivery and filters that the rows do not support, as (field, problem)."""
    kind = row_kind(report)
    family = kind.path.split("/")[-2]
    if report.query_type != family:
        yield "query_type", f"rows of {report.rows} belong to {family}; set query_type to {family}"
    if kind.metrics and set(report.metrics) - set(kind.metrics):
        yield "metrics", f"unknown metrics; rows of {report.rows} have {', '.join(kind.metrics)}"
    if any(name[:1] not in ("n", "t") for name in report.metrics):
        yield "metrics", "unknown metrics; a conversation has counts (n) and durations (t)"
    if report.fetch.delivery != "async":
        yield "fetch.delivery", "rows are extracted by job only; remove the field or set async"
    if kind.filter_list != "userFilters":
        yield from check_detail_filters(report.filters, is_held_to_filter=kind.is_held_to_filter)
    is_by_user = all(predicate.dimension == "userId" for predicate in all_predicates(report.filters))
    if kind.filter_list == "userFilters" and not is_by_user:
        yield "filters", "users can only be filtered by userId; remove the other dimensions"


def row_columns(report: Report) -> tuple[Column, ...]:
    """Return the keys, then the columns of the kind, then the metrics: whole numbers, durations in milliseconds."""
    kind = row_kind(report)
    return (
        *map(key_column, report.group_by),
        *kind.columns,
        # An open row has no duration yet. A conversation's sums include everything so far.
        *(row_metric_column(name, nullable=bool(kind.metrics)) for name in report.metrics),
    )


def row_body(report: Report, interval: Interval) -> dict[str, object]:
    """Return the request body of a job."""
    body: dict[str, object] = {"interval": str(interval), "order": "asc"}
    kind = row_kind(report)
    if kind.filter_list == "userFilters":
        return body | ({kind.filter_list: [vendor_filter(report.filters)]} if report.filters else {})
    of_conversations, of_segments = split_by_level(report.filters)
    if of_conversations:
        body["conversationFilters"] = [vendor_filter(of_conversations)]
    if of_segments:
        body["segmentFilters"] = [vendor_filter(of_segments)]
    return body


@dataclass
class RowReader:
    """Reads the pages of one job, in order.

    Attributes:
        report: The report's declaration.
        interval: The interval of the query; rows that begin outside it are skipped.
        open_since: Start of the first bucket so far with an open row that may still end; None if there is none.
    """

    report: Report
    interval: Interval
    open_since: datetime | None = None
    _buckets: list[Interval] = field(init=False)
    _starts: list[datetime] = field(init=False)
    _rows: list[DetailRow] = field(default_factory=list[DetailRow])
    _ended: set[EndedRow] = field(default_factory=set[EndedRow])

    def __post_init__(self) -> None:
        self._buckets = list_buckets(self.interval, self.report.step, self.report.zone)
        self._starts = [bucket.start for bucket in self._buckets]

    def add(self, entry: Source) -> None:
        """Read one entry of a page.

        Raises:
            SchemaMismatch: The entry does not have the documented shape.
        """
        for row in row_kind(self.report).read(entry, self.report):
            if self.interval.start <= row.start < self.interval.end:
                self._rows.append(row)
            elif row.start < self.interval.start and row.end is not None:
                self._add_ended(row)

    def table(self, watermark: datetime) -> pa.Table:
        """Return the rows that begin in the interval, of the entries added since the last call.

        Raises:
            SchemaMismatch: The rows do not have the documented shape.
        """
        rows, self._rows = [self._assign_bucket(row, watermark) for row in self._rows], []
        return rows_to_table(rows, to_arrow_schema(row_columns(self.report)))

    def ended(self) -> tuple[EndedRow, ...]:
        """Return the rows that began before the interval and have ended, of the entries added since the last call."""
        ended, self._ended = tuple(self._ended), set()
        return ended

    def _add_ended(self, row: DetailRow) -> None:
        start = floor_to_step(row.start, self.report.step, self.report.zone)
        bucket = Interval(start, next_boundary(start, self.report.step, self.report.zone))
        self._ended.add(EndedRow(bucket, str(row.values[to_snake_case(self.report.group_by[0])])))

    def complete_until(self, watermark: datetime) -> datetime:
        """Return the vendor's watermark or the start of the first bucket with an open row, whichever is earlier."""
        return watermark if self.open_since is None else min(watermark, self.open_since)

    def _assign_bucket(self, row: DetailRow, watermark: datetime) -> Row:
        bucket = self._buckets[bisect_right(self._starts, row.start) - 1]
        if row.end is None and row.start > watermark - self.report.fetch.open_row_timeout:
            self.open_since = min(self.open_since or bucket.start, bucket.start)
        return {"interval_start": bucket.start, "interval_end": bucket.end, **row.values}
