"""The declaration of a report: one data set, how it is fetched, how fresh it is kept and where it is published."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from cache_pipeline.errors import QueryError
from cache_pipeline.query.calendar import Step
from cache_pipeline.query.filters import Filter
from cache_pipeline.query.interval import FIRST_YEAR, LAST_YEAR
from cache_pipeline.query.measures import Measure, Measures
from cache_pipeline.query.zones import clock_change_granularity, time_zone

#: The account of a report that names none, if the settings do not say otherwise.
DEFAULT_ACCOUNT = "main"

_UNITS = ("weeks", "days", "hours", "minutes", "seconds")
_LENGTH = re.compile(
    r"(?P<sign>-)?P(?=.)(?:(?P<weeks>\d+)W)?(?:(?P<days>\d+)D)?"
    r"(?:T(?=\d)(?:(?P<hours>\d+)H)?(?:(?P<minutes>\d+)M)?(?:(?P<seconds>\d+)S)?)?",
    re.ASCII,
)
#: The usual ones, for messages; vendors have more.
_GRANULARITIES = ("PT15M", "PT30M", "PT1H", "P1D", "P1W")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
#: What Dagster accepts as the owner of an asset.
_EMAIL, _TEAM = re.compile(r"[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,7}"), re.compile(r"team:.+")


class Cadence(StrEnum):
    """The length of one partition of a report, in the report's time zone."""

    hour = "hour"
    day = "day"
    week = "week"

    @property
    def step(self) -> Step:
        """The calendar step between two partitions."""
        return {Cadence.hour: Step(minutes=60), Cadence.day: Step(days=1), Cadence.week: Step(days=7)}[self]


class Tier(StrEnum):
    """A store that holds a report's answers."""

    hot = "hot"
    history = "history"
    edge = "edge"


def account_setting(account_id: str, field: str = "") -> str:
    """Return the name of the environment variable of an account, or of one of its fields.

    Args:
        account_id: Vendor and name, such as ``vendor/main``.
        field: A field of the account.
    """
    names = "__".join(("ACCOUNTS", *account_id.split("/"), *([field] if field else [])))
    return f"CACHE_PIPELINE_{names.upper()}"


def _sort_names(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(set(names)))


def _parse_length(value: object) -> object:
    """Read an ISO 8601 duration of fixed length; a bare number would leave its unit to be guessed."""
    if isinstance(value, timedelta):
        return value
    match = _LENGTH.fullmatch(value) if isinstance(value, str) else None
    if match is None or not any(match[unit] for unit in _UNITS):
        shown = "a duration" if value is None else f"{str(value)[:80]!r}"
        raise QueryError(
            f"{shown} must be an ISO 8601 duration of weeks, days, hours, minutes or seconds: write, for example, "
            "PT15M, PT36H or P3D"
        )
    try:
        length = timedelta(**{unit: float(match[unit] or 0) for unit in _UNITS})
    except OverflowError as error:
        raise QueryError(f"{value!r} is too long") from error
    return -length if match["sign"] else length


def _format_length(length: timedelta) -> str:
    """Write a duration as `_parse_length` reads it; Pydantic writes 365 days as a year."""
    sign = "-" if length < timedelta(0) else ""
    return f"{sign}P{abs(length).days}DT{abs(length).seconds}S"


def _require_iso_date(value: object) -> object:
    is_date = isinstance(value, date) and not isinstance(value, datetime)
    if not is_date and not (isinstance(value, str) and _DATE.fullmatch(value)):
        raise QueryError("must be a date: write, for example, 2026-01-31")
    return value


def _check_year(start: date) -> date:
    if not FIRST_YEAR <= start.year <= LAST_YEAR:
        raise QueryError(f"is outside the years {FIRST_YEAR} to {LAST_YEAR}")
    return start


def _check_owner(owner: str) -> str:
    if not (_EMAIL.fullmatch(owner) or _TEAM.fullmatch(owner)):
        raise QueryError(f"{owner[:80]!r} is neither an e-mail address nor team:name")
    return owner


def _normalize_period(value: str) -> str:
    return str(Step.parse(value))


def _normalize_granularity(value: str) -> str:
    try:
        step = Step.parse(value)
    except QueryError:
        step = None
    if step is None or not any(step.divides(cadence.step) for cadence in Cadence):
        raise QueryError(
            f"{value[:80]!r} is not a calendar step that divides a partition of one {' or '.join(Cadence)}: use "
            f"{', '.join(_GRANULARITIES)}"
        )
    return str(step)


def _normalize_zone(value: str) -> str:
    return time_zone(value).key


Names = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], AfterValidator(_sort_names)]
Period = Annotated[str, AfterValidator(_normalize_period)]
Granularity = Annotated[str, AfterValidator(_normalize_granularity)]
_AsText = PlainSerializer(_format_length, return_type=str, when_used="json")
#: A duration whose length does not depend on the calendar.
Length = Annotated[timedelta, Field(ge=timedelta(0)), BeforeValidator(_parse_length), _AsText]
PositiveLength = Annotated[timedelta, Field(gt=timedelta(0)), BeforeValidator(_parse_length), _AsText]
#: Whole numbers and numbers as they are written: neither `true` nor `"5"` is one.
Count = Annotated[int, Field(strict=True, ge=1, le=1_000_000)]
CellCount = Annotated[int, Field(strict=True, ge=2, le=1_000_000)]
Owner = Annotated[str, AfterValidator(_check_owner)]
Share = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]


class FetchOptions(BaseModel, frozen=True):
    """How a report's figures are fetched from the vendor. None of this is part of their meaning."""

    model_config = ConfigDict(extra="forbid")

    delivery: Literal["async", "sync"] = Field(
        default="async",
        description="Fetch by asynchronous job, or in one synchronous request where the vendor supports it",
    )
    max_query_interval: Period = Field(default="P1D", description="Longest interval of one upstream query")
    expected_groups: Count | None = Field(
        default=None,
        description="Number of groups in a busy bucket; completeness is checked against it until history knows better",
    )
    refetch_window: PositiveLength | None = Field(
        default=None,
        description="Figures of the last so many days, rounded out to whole partitions, are fetched again once a local day, because "
        "vendors correct them; null: never. Default: as the vendor is known to correct them",
    )
    open_row_timeout: PositiveLength = Field(
        default=timedelta(days=2),
        description="A row without an end keeps its bucket provisional for this long",
    )


class FreshnessOptions(BaseModel, frozen=True):
    """How old a report's figures may grow, and when they count as final."""

    model_config = ConfigDict(extra="forbid")

    ttl: PositiveLength | None = Field(
        default=None,
        description="Maximum age of provisional figures of a bucket younger than finality_delay; it grows with the bucket's age, up "
        "to a day. Default: derived from the length of a partition",
    )
    finality_delay: Length = Field(
        default=timedelta(minutes=15),
        description="Age after which a bucket counts as final if the vendor reports no watermark",
    )
    recheck_delay: PositiveLength = Field(
        default=timedelta(minutes=15),
        description="Figures that history contradicts, or that could not be verified, stay provisional until they are fetched "
        "again after this long and agree; it must outlast a short failure of the vendor",
    )
    stale_while_revalidate: PositiveLength | None = Field(
        default=None,
        description="The HTTP API may serve provisional figures that exceed their maximum age by this much, with their age "
        "stated, while a job fetches them again; by default the caller has to wait for the job",
    )
    drift_tolerance: Share | None = Field(
        default=0.5,
        description="Share by which an hour or day may differ from comparable ones before a check warns; null disables the "
        "check, and reports with `rows` have none",
    )
    prefetch_after_misses: Count | None = Field(
        default=None,
        description="Requests within an hour that the stored data could not answer, after which the partitions they touch "
        "are fetched in advance; by default they are only suggested in the log",
    )


class PublishOptions(BaseModel, frozen=True):
    """Where a report's answers are stored, and what of them is published."""

    model_config = ConfigDict(extra="forbid")

    tiers: frozenset[Tier] = Field(
        default=frozenset(Tier), validate_default=True, description="Stores that hold the answers; history is required"
    )
    warehouse: bool = Field(
        default=False,
        strict=True,
        description="Export history to the warehouse of CACHE_PIPELINE_WAREHOUSE_URL, as an asset of its own",
    )
    edge_group_by: Names | None = Field(
        default=None,
        description="Reports with `rows` only: dimensions by which the edge counts rows and sums metrics; [] counts by "
        "bucket alone",
    )
    edge_columns: Names | None = Field(
        default=None, description="Metric columns that may be published; default: all. Dimensions are always published"
    )
    min_cell_count: CellCount | None = Field(
        default=None,
        description="Figures of published rows with fewer events (by `volume_metric`, or counted rows) are withheld; "
        "default: 5 for reports with `rows`",
    )

    @field_validator("tiers")
    @classmethod
    def _require_history(cls, tiers: frozenset[Tier]) -> frozenset[Tier]:
        if Tier.history not in tiers:
            raise QueryError("must contain history: hot and edge are filled from it")
        return tiers


class Report(BaseModel, frozen=True):
    """One declared report (``reports/*.yaml``).

    Periods are ISO 8601 durations (``PT15M``, ``P1D``). Names of dimensions, metrics and query types are the vendor's.
    """

    model_config = ConfigDict(extra="forbid")

    name: str = Field(
        pattern=r"^[a-z][a-z0-9_]{0,46}$", description="Name of the report, of its table and of its assets"
    )
    description: str = Field(min_length=1, description="What the figures are, in one sentence")
    platform: str = Field(description="The vendor whose API is queried")
    account: str | None = Field(
        None, description="The vendor's account, as the settings name it; may be left out while the vendor has one"
    )
    query_type: str = Field(
        description="What is queried: the id of a report, or a family of figures, as the vendor names it"
    )
    rows: Annotated[str, Field(min_length=1)] | None = Field(
        None,
        description="Fetch single rows of a kind that the vendor has, such as conversations, instead of figures by group",
    )
    group_by: Names = Field(description="Dimensions, in any order; [] for reports with `rows`")
    metrics: Annotated[Names, Field(min_length=1, description="Metrics, in any order")]
    measures: Measures = Field(
        default_factory=dict[str, Measure | None],
        description="Figures that follow from sums of columns, by name, beside those that the vendor defines: a formula such as "
        "`t_handle_sum / t_handle_count`, or a formula with kind, label and description; null takes one of the vendor's away",
    )
    volume_metric: str | None = Field(None, description="The metric that counts arrivals, used for totals by day")
    filters: Filter = Field(default_factory=Filter, description="Rows to include; default: all")
    time_zone: Annotated[str, AfterValidator(_normalize_zone)] = Field(
        "UTC", description="IANA time zone of buckets and days"
    )
    start: Annotated[date, BeforeValidator(_require_iso_date), AfterValidator(_check_year)] = Field(
        description="First day that has partitions, in the report's time zone"
    )
    partition: Cadence = Field(description="Length of one Dagster partition")
    # After the fields that it is checked against.
    granularity: Granularity = Field(description="Length of one bucket, which divides a partition")
    # The defaults are validated too: the default interval may not suit the granularity.
    fetch: FetchOptions = Field(
        default_factory=FetchOptions, validate_default=True, description="How the figures are fetched"
    )
    freshness: FreshnessOptions = Field(
        default_factory=FreshnessOptions, description="How old figures may grow, and when they are final"
    )
    publish: PublishOptions = Field(
        default_factory=PublishOptions, validate_default=True, description="Where answers are stored and published"
    )
    retention: PositiveLength | None = Field(
        None,
        description="Delete partitions from history that ended longer ago than this, such as P730D, and never fetch them again; "
        "default: keep all",
    )
    time_travel: PositiveLength | None = Field(
        None,
        description="Keep superseded final figures for this long, so that an answer can be given as it was known at any time since "
        "(`as_of`); default: keep none",
    )
    live: str | None = Field(
        None,
        description="Name of a live report; answers have its figures beside the stored ones if a query asks for that",
    )
    owners: tuple[Owner, ...] = Field((), description="team:name or an e-mail address, shown in Dagster")

    @field_validator("retention")
    @classmethod
    def _check_retention(cls, retention: timedelta | None, info: ValidationInfo) -> timedelta | None:
        fetch: FetchOptions | None = info.data.get("fetch")
        window = fetch.refetch_window if fetch else None
        if retention is not None and window is not None and retention < window:
            raise QueryError("is shorter than fetch.refetch_window, whose figures are still corrected: declare more")
        return retention

    # Each validator sees only those earlier fields that are valid. An invalid field is reported on its own.
    @field_validator("volume_metric")
    @classmethod
    def _check_volume_metric(cls, name: str | None, info: ValidationInfo) -> str | None:
        if name is not None and "metrics" in info.data and name not in info.data["metrics"]:
            raise QueryError(f"{name!r} is not one of metrics")
        return name

    @field_validator("granularity")
    @classmethod
    def _check_granularity(cls, granularity: str, info: ValidationInfo) -> str:
        partition: Cadence | None = info.data.get("partition")
        if partition is None:
            return granularity
        if not Step.parse(granularity).divides(partition.step):
            usual = ", ".join(each for each in _GRANULARITIES if Step.parse(each).divides(partition.step))
            raise QueryError(
                f"granularity {granularity} does not divide a partition of one {partition}: use {usual}, or a longer partition"
            )
        zone, start = info.data.get("time_zone"), info.data.get("start")
        if partition is Cadence.hour and zone and start:
            change = clock_change_granularity(zone, start)
            if change % Step.parse(granularity).minutes:
                raise QueryError(
                    f"the clocks of {zone} change by {change} minutes, so hourly partitions would cut buckets of "
                    f"{granularity}: write partition: day, or granularity: PT{change}M"
                )
        return granularity

    @field_validator("fetch")
    @classmethod
    def _check_fetch(cls, fetch: FetchOptions, info: ValidationInfo) -> FetchOptions:
        granularity, longest = info.data.get("granularity"), fetch.max_query_interval
        partition, window = info.data.get("partition"), fetch.refetch_window
        problems: dict[str, str] = {}
        if granularity and not Step.parse(granularity).divides(Step.parse(longest)):
            problems["max_query_interval"] = f"granularity {granularity} does not divide a query interval of {longest}"
        if partition and window is not None and window < partition.step.nominal_length:
            problems["refetch_window"] = (
                f"is shorter than a partition, which is fetched as a whole: declare {partition.step} or more, or null"
            )
        if problems:
            raise _field_errors(problems)
        return fetch

    @field_validator("publish")
    @classmethod
    def _check_publish(cls, publish: PublishOptions, info: ValidationInfo) -> PublishOptions:
        rows = info.data.get("rows")
        checks = {
            "edge_group_by": "applies to reports with rows only: other reports are published by group_by"
            if publish.edge_group_by is not None and rows is None
            else None,
            "min_cell_count": "needs volume_metric, which says how many events a row counts"
            if publish.min_cell_count is not None and info.data.get("volume_metric") is None and rows is None
            else None,
        }
        if problems := {field: problem for field, problem in checks.items() if problem is not None}:
            raise _field_errors(problems)
        return publish

    def __hash__(self) -> int:
        """Hash the fields that tell reports apart; hashing all of them would take longer."""
        return hash((self.name, self.granularity, self.time_zone, self.group_by, self.metrics, self.filters))

    @property
    def step(self) -> Step:
        """The granularity as a calendar step."""
        return Step.parse(self.granularity)

    @property
    def account_id(self) -> str:
        """The vendor and the account, such as ``vendor/main``."""
        return f"{self.platform}/{self.account or DEFAULT_ACCOUNT}"

    def account_setting(self, field: str = "") -> str:
        """Return the name of the environment variable of the account, or of one of its fields."""
        return account_setting(self.account_id, field)

    @property
    def zone(self) -> ZoneInfo:
        """The report's time zone."""
        return time_zone(self.time_zone)

    def expected_groups_per_bucket(self) -> int | None:
        """Return the groups expected in one full bucket: from the filter if it names them, else as declared (G22)."""
        known = 1
        for values in [self.filters.named_values(dimension) for dimension in self.group_by]:
            if values is None:
                return self.fetch.expected_groups
            known *= len(values)
        return known

    def with_max_query_interval(self, interval: str) -> Report:
        """Return the same report, fetched in queries of at most this interval."""
        return self.model_copy(update={"fetch": self.fetch.model_copy(update={"max_query_interval": interval})})


def _field_errors(problems: Mapping[str, str]) -> ValidationError:
    """Return one error that places each problem at its field of the group that is being validated."""
    return ValidationError.from_exception_data(
        Report.__name__,
        [
            InitErrorDetails(
                type=PydanticCustomError("declaration", "{problem}", {"problem": problem}), loc=(field,), input=None
            )
            for field, problem in problems.items()
        ],
    )
