"""Queries in canonical form: the unit of coverage (a series) and the source of cache keys."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

from cache_pipeline.query.interval import Interval
from cache_pipeline.query.report import DEFAULT_ACCOUNT, Report
from cache_pipeline.query.zones import canonical_zone, has_same_buckets

#: The tenant of a deployment that names none.
DEFAULT_TENANT = "default"


def tenant_schema(name: str, tenant: str) -> str:
    """Return the schema that holds a tenant's tables; the default tenant's has the name itself."""
    return name if tenant == DEFAULT_TENANT else f"{name}_{tenant}"


_encode_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


@dataclass(frozen=True)
class Series:
    """A report as one tenant queries it, without an interval.

    Two declarations whose rows are the same groups are one series, whichever metrics they have of them: history knows for each
    metric what it holds. A changed filter, zone, granularity or grouping starts a new series, so that old and new rows never
    mix. How the figures are fetched (for example the delivery) is not part of the meaning, and neither is the report's name.
    But each report has its own table, so its series are its own too. The columns of reports with `rows` come from the vendor's
    rows as a whole, so there other metrics are another series.
    """

    report: Report
    tenant: str = DEFAULT_TENANT

    @cached_property
    def canonical_form(self) -> dict[str, object]:
        """The canonical form that keys are made from (G6): sorted, without duplicates, without defaults."""
        report = self.report
        form: dict[str, object] = {
            "tenant": self.tenant,
            "platform": report.platform,
            "queryType": report.query_type,
            "granularity": report.granularity,
            "groupBy": list(report.group_by),
            "metrics": list(report.metrics),
        }
        if report.account not in (None, DEFAULT_ACCOUNT):
            form["account"] = report.account
        if report.rows is not None:
            form["rows"] = report.rows
        # A zone whose buckets are those of UTC does not change the meaning.
        if not has_same_buckets(report.step.minutes, report.time_zone, "UTC"):
            form["timeZone"] = canonical_zone(report.time_zone)
        if report.filters:
            form["filters"] = report.filters.canonical_form
        return form

    @cached_property
    def canonical_json(self) -> str:
        """The canonical form, and the report whose table holds the rows, as canonical JSON."""
        return _encode_canonical({**self.canonical_form, "report": self.report.name})

    @cached_property
    def stored_form(self) -> dict[str, object]:
        """The canonical form of everything that makes the stored rows one series: without metrics, unless they have `rows`."""
        form = self.canonical_form
        return form if self.report.rows else {name: value for name, value in form.items() if name != "metrics"}

    @cached_property
    def id(self) -> str:
        """The name of the stored rows: 32 hexadecimal digits that depend on ``stored_form`` and the report."""
        return _digest(_encode_canonical({**self.stored_form, "report": self.report.name}))[:32]

    @cached_property
    def query_id(self) -> str:
        """The name of a query with exactly these metrics: 32 hexadecimal digits that depend on ``canonical_json``."""
        return _digest(self.canonical_json)[:32]

    def with_metrics(self, metrics: Iterable[str]) -> Series:
        """Return the same stored rows with other metrics."""
        return replace(self, report=self.report.model_copy(update={"metrics": tuple(sorted(metrics))}))


@lru_cache(maxsize=1024)
def make_series(report: Report, tenant: str) -> Series:
    """Return the series of a report and tenant; cached, because its canonical form is the slowest part of a lookup."""
    return Series(report, tenant)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class CanonicalQuery:
    """A series and the interval requested of it.

    Attributes:
        series: The requested series.
        interval: The requested interval, in whole buckets of the series.
        rollup_source: The series whose rows are rolled up into this one; None if the series itself is stored.
        elapsed: The part that can have rows already, if the last bucket has not ended; else None.
    """

    series: Series
    interval: Interval
    rollup_source: Series | None = None
    elapsed: Interval | None = None

    @property
    def source_series(self) -> Series:
        """The stored series whose rows answer the query."""
        return self.rollup_source or self.series

    @property
    def available_interval(self) -> Interval:
        """The interval that must be stored of the source series."""
        return self.elapsed or self.interval

    def cache_key(self, ttl_tier: str) -> str:
        """Return ``analytics:{query_type}:{sha256}:{ttl_tier}`` (G7); the hash includes the tenant.

        It also includes the report, because an answer contains its name and has its freshness.
        """
        return f"analytics:{self.series.report.query_type}:{self._digest}:{ttl_tier}"

    @cached_property
    def _digest(self) -> str:
        return _digest(f'{{"interval":"{self.interval}","series":{self.series.canonical_json}}}')
