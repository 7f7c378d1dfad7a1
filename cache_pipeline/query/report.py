"""What a data engineer declares: one report is one data set, its partitions, its freshness and its tiers."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta
from enum import StrEnum
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
)

from cache_pipeline.errors import QueryError
from cache_pipeline.query.calendar import Step
from cache_pipeline.query.filters import Filter
from cache_pipeline.query.zones import time_zone


class Cadence(StrEnum):
    """How long one partition of a report is, in the report's time zone."""

    hour = "hour"
    day = "day"
    week = "week"

    @property
    def step(self) -> Step:
        """The calendar step between two partitions."""
        return {Cadence.hour: Step(minutes=60), Cadence.day: Step(days=1), Cadence.week: Step(days=7)}[self]


class Tier(StrEnum):
    """Where a report's answers are kept."""

    hot = "hot"
    history = "history"
    edge = "edge"


#: Dimensions that tell one person from another.
_PERSONAL = frozenset(
    {
        "addressFrom",
        "addressTo",
        "ani",
        "conversationId",
        "dnis",
        "externalContactId",
        "participantName",
        "remote",
        "selectedAgentId",
        "sessionId",
        "userId",
    }
)


def _sorted_names(value: object) -> object:
    return tuple(sorted({str(name) for name in value})) if isinstance(value, list | tuple | set) else value


def _known_period(value: str) -> str:
    return str(Step.parse(value))


def _known_zone(value: str) -> str:
    return time_zone(value).key


Names = Annotated[tuple[str, ...], BeforeValidator(_sorted_names)]
Period = Annotated[str, AfterValidator(_known_period)]


#: What makes a row of a row-level report one and the same, by what its rows are; in the place of groups.
ROW_KEYS: Mapping[str, tuple[str, ...]] = {
    "conversations": ("conversationId",),
    "segments": ("conversationId", "segmentNumber", "sessionId"),
    "presence": ("startTime", "userId"),
    "routing": ("startTime", "userId"),
}


#: What published counts of rows may be grouped by: what says nothing of a person.
EDGE_GROUPS: Mapping[str, tuple[str, ...]] = {
    "conversations": ("divisionId", "firstQueueId", "mediaType", "originatingDirection"),
    "segments": ("direction", "disconnectType", "mediaType", "purpose", "queueId", "segmentType", "wrapUpCode"),
    "presence": ("organizationPresenceId", "systemPresence"),
    "routing": ("routingStatus",),
}


class Report(BaseModel, frozen=True):
    """One declared report (``reports/*.yaml``).

    Periods are ISO 8601 (``PT15M``, ``P1D``); names of dimensions, metrics and query types are the vendor's own.
    """

    model_config = ConfigDict(extra="forbid")

    report: str = Field(pattern=r"^[a-z][a-z0-9_]{0,46}$", description="Name of the data set, its table and its assets")
    description: str = Field(min_length=1, description="What the figures are, in a sentence")
    platform: str = Field(description="The vendor's API that is asked: reportdata, genesys or cxone")
    query_type: str = Field(description="What is asked of it: a reportId, or an aggregates family")
    rows: Literal["conversations", "segments", "presence", "routing"] | None = Field(
        None, description="For a row of each conversation, segment or stretch of time, in place of figures by group"
    )
    delivery: Literal["async", "sync"] = Field("async", description="By job, or in one request where the vendor can")
    granularity: Period = Field(description="Length of one bucket")
    time_zone: Annotated[str, AfterValidator(_known_zone)] = Field("UTC", description="IANA zone of buckets and days")
    group_by: Names = Field(description="Dimensions; their order does not matter; [] for rows")
    metrics: Annotated[Names, Field(min_length=1, description="Metrics; their order does not matter")]
    filters: Filter = Field(default_factory=Filter, description="Rows to ask for")
    volume_metric: str | None = Field(None, description="The metric that counts arrivals, for totals by day")
    partition: Cadence = Field(description="Length of one Dagster partition")
    start: date = Field(description="First day, in the report's zone, that partitions exist for")
    chunk: Period = Field("P1D", validate_default=True, description="Longest interval of one upstream query")
    expected_groups: int | None = Field(
        None, ge=1, description="Groups a busy bucket has; what completeness is judged by until history knows better"
    )
    settle: timedelta = Field(
        timedelta(minutes=15),
        ge=timedelta(0),
        description="After this age a bucket counts as final where the vendor gives no watermark",
    )
    freshness: timedelta | None = Field(
        None, gt=timedelta(0), description="How old provisional figures may grow; by default follows the partition"
    )
    restate: timedelta | None = Field(
        None,
        gt=timedelta(0),
        description="Final figures up to this age are asked for again once a day, for vendors correct them; by default never",
    )
    stale_while_revalidate: timedelta | None = Field(
        None,
        gt=timedelta(0),
        description="The HTTP API may serve provisional figures that are older than their freshness by so much, with their "
        "age told, while a job fetches them anew; without it a caller is told to wait",
    )
    drift: float | None = Field(
        0.5,
        gt=0,
        description="Share by which an hour or day may differ from comparable ones before a check warns; null for no check, and reports "
        "with rows have none",
    )
    ask_ahead_after: int | None = Field(
        None,
        ge=1,
        description="Requests in an hour that what is kept could not answer, after which the partitions they touch are "
        "fetched before the next one; without it they are only proposed",
    )
    edge_group_by: Names | None = Field(
        None,
        description="Of a report with rows: the edge has its rows counted, and its metrics summed, by these; [] for by "
        "bucket alone",
    )
    tiers: frozenset[Tier] = Field(frozenset(Tier), validate_default=True, description="Where answers are kept")
    edge_columns: Names | None = Field(
        None, description="Metric columns that may be published; by default all. Dimensions always are"
    )
    min_cell_count: int | None = Field(
        None,
        ge=2,
        description="Figures of published rows of fewer events (volume_metric, or of counted rows) are withheld; of rows "
        "by default 5",
    )
    owners: tuple[str, ...] = Field((), description="team:name or an e-mail address, shown in Dagster")

    open_for: timedelta = Field(
        timedelta(days=2),
        gt=timedelta(0),
        description="For so long a row without an end is awaited, and its bucket provisional",
    )

    # A field that is itself wrong is absent from what these see, and is reported on its own.
    @field_validator("volume_metric")
    @classmethod
    def _is_a_metric(cls, name: str | None, info: ValidationInfo) -> str | None:
        if name is not None and "metrics" in info.data and name not in info.data["metrics"]:
            raise QueryError(f"{name!r} is not one of metrics")
        return name

    @field_validator("group_by")
    @classmethod
    def _is_key_of_rows(cls, names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        rows = info.data.get("rows")
        if rows is None:
            return names
        if names not in ((), ROW_KEYS[rows]):
            raise QueryError(f"a report with rows has a row for each of the {rows}: write group_by: []")
        return ROW_KEYS[rows]

    @field_validator("edge_group_by")
    @classmethod
    def _names_nobody(cls, names: tuple[str, ...] | None, info: ValidationInfo) -> tuple[str, ...] | None:
        rows = info.data.get("rows")
        if names is None:
            return None
        if rows is None:
            raise QueryError("is of a report with rows: others are published by group_by")
        if unknown := sorted(set(names) - set(EDGE_GROUPS[rows])):
            raise QueryError(
                f"{', '.join(unknown)}: counts of {rows} may be published by {', '.join(EDGE_GROUPS[rows])}"
            )
        return names

    @field_validator("partition")
    @classmethod
    def _is_whole_buckets(cls, partition: Cadence, info: ValidationInfo) -> Cadence:
        granularity = info.data.get("granularity")
        if granularity and not Step.parse(granularity).divides(partition.step):
            raise QueryError(f"granularity {granularity} does not divide a partition of one {partition}")
        return partition

    @field_validator("chunk")
    @classmethod
    def _is_whole_buckets_too(cls, chunk: str, info: ValidationInfo) -> str:
        granularity = info.data.get("granularity")
        if granularity and not Step.parse(granularity).divides(Step.parse(chunk)):
            raise QueryError(f"granularity {granularity} does not divide a chunk of {chunk}")
        return chunk

    @field_validator("tiers")
    @classmethod
    def _has_history(cls, tiers: frozenset[Tier]) -> frozenset[Tier]:
        if Tier.history not in tiers:
            raise QueryError("must contain history: hot and edge are filled from it")
        return tiers

    @field_validator("tiers")
    @classmethod
    def _publishes_no_person(cls, tiers: frozenset[Tier], info: ValidationInfo) -> frozenset[Tier]:
        rows = info.data.get("rows")
        if rows is not None and Tier.edge in tiers and info.data.get("edge_group_by") is None:
            raise QueryError(
                f"edge publishes aggregates only, and {rows} are single ones: write edge_group_by, for their counts, or "
                "tiers: [history]"
            )
        personal = [] if rows else sorted(_PERSONAL & set(info.data.get("group_by", ())))
        if Tier.edge in tiers and personal:
            raise QueryError(
                f"edge publishes aggregates only, and rows by {', '.join(personal)} are figures of single people: "
                "write tiers: [history, hot]"
            )
        return tiers

    @field_validator("min_cell_count")
    @classmethod
    def _counts_something(cls, count: int | None, info: ValidationInfo) -> int | None:
        if count is not None and info.data.get("volume_metric") is None and info.data.get("rows") is None:
            raise QueryError("needs volume_metric, which says how many events a row is of")
        return count

    def __hash__(self) -> int:
        """Of the fields that tell reports apart, for there are many others."""
        return hash((self.report, self.granularity, self.time_zone, self.group_by, self.metrics, self.filters))

    @property
    def step(self) -> Step:
        """The granularity as a calendar step."""
        return Step.parse(self.granularity)

    @property
    def zone(self) -> ZoneInfo:
        """The report's time zone."""
        return time_zone(self.time_zone)

    def groups_a_bucket(self) -> int | None:
        """Groups expected in one full bucket: from the filter where it names them, else as declared (G22)."""
        named = [self.filters.named_values(dimension) for dimension in self.group_by]
        known = 1
        for values in named:
            if values is None:
                return self.expected_groups
            known *= len(values)
        return known
