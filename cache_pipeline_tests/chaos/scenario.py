"""Scenario of a chaos run: the declared reports and the settings of the simulated vendor."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

CLIENTS = {"chaos-1": "first-secret-of-chaos", "chaos-2": "second-secret-of-chaos"}
#: Requests per window for each client. The window is a sixth of the usual minute.
LIMIT, WINDOW_SECONDS = 40, 10.0
DAYS = 47
#: Declared delay after which answers that need a second look are refetched.
RECHECK_SECONDS = 3
#: The most recent days are requested in small pieces; earlier weeks as a whole, so that their answers are long enough to be truncated.
RECENT_DAYS = 19
ORGANISATION_ZONE = ZoneInfo("Europe/Berlin")
_FINALITY_DELAY = timedelta(minutes=20)

SIMULATOR: dict[str, Any] = {
    "clients": CLIENTS,
    "organisation_zone": ORGANISATION_ZONE.key,
    "conversations_per_working_day": 4000,
    "reportdata_rate_limit": LIMIT,
    "genesys_rate_limit": LIMIT,
    "rate_limit_scope": "client",
    "rate_window_seconds": WINDOW_SECONDS,
    "job_seconds_base": 0.3,
    "job_seconds_per_1000_cells": 0.1,
    "watermark_lag_seconds": 20.0,
    "token_lifetime_seconds": 20.0,
}


@dataclass(frozen=True)
class ChaosReport:
    """A report of the run.

    Attributes:
        name: Name of the report.
        zone: Time zone of its days and hours.
        columns: Columns of history that hold offered conversations and talk time in milliseconds.
        truth: Parameters for the simulator's ``/simulator/truth``.
        text: The declaration, as YAML.
    """

    name: str
    zone: ZoneInfo
    columns: tuple[str, str]
    truth: dict[str, str]
    text: str

    def midnight(self, day: date) -> datetime:
        """Return the beginning of a local day, in UTC."""
        return datetime(day.year, day.month, day.day, tzinfo=self.zone).astimezone(UTC)

    def today(self) -> date:
        """Return the first local day whose figures are not all final yet."""
        return (datetime.now(UTC) - _FINALITY_DELAY).astimezone(self.zone).date()

    def days(self) -> list[date]:
        """Return the days to backfill, oldest first. All of them are final."""
        return [self.today() - timedelta(days=number) for number in range(DAYS, 0, -1)]

    def recent_days(self) -> list[date]:
        """Return the last `RECENT_DAYS` of them."""
        return self.days()[-RECENT_DAYS:]

    def weeks(self) -> list[date]:
        """Return the Mondays of the whole weeks before the recent days. One query may cover such a week."""
        older = self.days()[:-RECENT_DAYS]
        return [day for day in older if day.weekday() == 0 and day + timedelta(days=7) <= older[-1] + timedelta(days=1)]

    def interval(self, first: date, end: date) -> str:
        """Return ``start/end`` of local days, in UTC."""
        return "/".join(f"{self.midnight(day):%Y-%m-%dT%H:%M:%SZ}" for day in (first, end))


def _report(name: str, zone: str, columns: tuple[str, str], granularity: str, text: str) -> ChaosReport:
    truth = {"granularity": granularity, "groupBy": "queueId", "timeZone": zone}
    start = datetime.now(UTC).date() - timedelta(days=DAYS + 5)
    common = f"name: {name}\ntime_zone: {zone}\ngranularity: {granularity}\ngroup_by: [queueId]\nstart: {start}\n"
    return ChaosReport(name, ZoneInfo(zone), columns, truth, f"{common}partition: day\n{text}")


_FRESHNESS = f"freshness: {{ttl: PT5S, recheck_delay: PT{RECHECK_SECONDS}S}}\n"

REPORTS = (
    _report(
        "queue_hour",
        "Europe/Berlin",
        ("offered", "talk_ms"),
        "PT1H",
        "description: Offered by queue and hour\nplatform: reportdata\nquery_type: queue-performance\n"
        "metrics: [offered, talkMs]\nvolume_metric: offered\nfetch: {max_query_interval: P1W, expected_groups: 8}\n"
        + _FRESHNESS,
    ),
    _report(
        "queue_half_hour",
        "America/New_York",
        ("n_offered", "t_talk_sum"),
        "PT30M",
        "description: Offered by queue and half hour\nplatform: genesys\nquery_type: conversations\n"
        "metrics: [nOffered, tTalk]\nvolume_metric: nOffered\nfetch: {max_query_interval: P1W, expected_groups: 8}\n"
        + _FRESHNESS,
    ),
)
