"""The declaration of a live report: what happens now, of which nothing is stored for longer than half a minute."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cache_pipeline.errors import InvalidInterval, InvalidQuery, QueryError
from cache_pipeline.query.report import DEFAULT_ACCOUNT, Names, Owner, account_setting


class Threshold(BaseModel, frozen=True):
    """From which value the live page marks a figure. Either is enough."""

    model_config = ConfigDict(extra="forbid")

    warn: float | None = Field(default=None, ge=0, allow_inf_nan=False, description="Marked as worth a look")
    alarm: float | None = Field(default=None, ge=0, allow_inf_nan=False, description="Marked as urgent")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.warn is None and self.alarm is None:
            raise QueryError("is empty: declare warn, alarm, or both")
        return self


class Thresholds(BaseModel, frozen=True):
    """From which values the live page marks figures of a queue."""

    model_config = ConfigDict(extra="forbid")

    waiting: Threshold | None = Field(default=None, description="Conversations that wait; marked at this many or more")
    longest_wait_seconds: Threshold | None = Field(
        default=None, description="Seconds that the first of them has waited; marked at this many or more"
    )
    idle_agents: Threshold | None = Field(
        default=None, description="Agents who are free; marked at this many or fewer while conversations wait"
    )
    service_level: Threshold | None = Field(
        default=None, description="Service level of the day so far, from 0 to 1; marked at this much or less"
    )


class ServiceLevel(BaseModel, frozen=True):
    """Where the live page takes the service level of the day so far from: a declared report, by the same dimension."""

    model_config = ConfigDict(extra="forbid")

    report: str = Field(description="Name of the report")
    measure: str = Field(default="service_level", description="Its measure that is the service level, a share")


class LiveReport(BaseModel, frozen=True):
    """One declared live report (``reports/*.yaml``): its ``query_type`` is one of a vendor's observations.

    It has no interval, no granularity and no partitions. Answers are kept in the hot tier alone.
    """

    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,46}$", description="Name of the report")
    description: str = Field(min_length=1, description="What the figures are, in one sentence")
    platform: str = Field(description="The vendor whose API is queried")
    account: str | None = Field(
        None, description="The vendor's account, as the settings name it; may be left out while the vendor has one"
    )
    query_type: str = Field(description="What is observed, as the vendor names it")
    group_by: Annotated[Names, Field(min_length=1, description="Dimensions, in any order")]
    metrics: Annotated[Names, Field(min_length=1, description="Metrics, in any order")]
    thresholds: Thresholds = Field(default_factory=Thresholds, description="Which figures the live page marks")
    service_level: ServiceLevel | None = Field(None, description="Service level of the day so far, on the live page")
    owners: tuple[Owner, ...] = Field((), description="team:name or an e-mail address")

    @property
    def account_id(self) -> str:
        """The vendor and the account, such as ``vendor/main``."""
        return f"{self.platform}/{self.account or DEFAULT_ACCOUNT}"

    def account_setting(self, field: str = "") -> str:
        """Return the name of the environment variable of the account, or of one of its fields."""
        return account_setting(self.account_id, field)

    @property
    def canonical_form(self) -> Mapping[str, object]:
        """What the answer depends on, beside the tenant: sorted, without defaults (G6)."""
        return {
            "report": self.name,
            "account": self.account_id,
            "queryType": self.query_type,
            "groupBy": list(self.group_by),
            "metrics": list(self.metrics),
        }


def check_live_request(report: LiveReport, request: Mapping[str, object]) -> None:
    """Refuse a query that asks of a live report what it cannot answer.

    Args:
        report: The live report.
        request: The fields of the query that change its answer; None where it leaves one out.

    Raises:
        InvalidInterval: It has an interval.
        InvalidQuery: It has another field.
    """
    if request.get("interval") is not None:
        raise InvalidInterval(
            f"{report.name} shows the present and keeps no history: leave out interval, or query a report that has partitions"
        )
    for field, value in request.items():
        if value is not None:
            raise InvalidQuery(field, f"{report.name} is live and is answered as it is declared: leave it out")
