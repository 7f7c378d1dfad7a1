"""What is declared, and what the simulated vendor is like."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

CLIENTS = {"chaos-1": "first-secret-of-chaos", "chaos-2": "second-secret-of-chaos"}
#: Requests in a window of so many seconds for each client: a minute in a sixth of the time.
LIMIT, WINDOW_SECONDS = 40, 10.0
DAYS = 47
#: After so long, figures that need a second look are fetched again.
RECHECK_SECONDS = 3
#: The last of them are asked for in small pieces; the weeks before as wholes, so that their answers are long enough to be cut.
RECENT_DAYS = 19
ORGANISATION = ZoneInfo("Europe/Berlin")
_SETTLED = timedelta(minutes=20)

SIMULATOR: dict[str, Any] = {
    "clients": CLIENTS,
    "organisation_zone": ORGANISATION.key,
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
class Declared:
    """A report of the run.

    Attributes:
        name: of the report.
        zone: whose days and hours it has.
        columns: of history: what was offered, and for how long it was talked.
        truth: how the vendor is asked for the truth of it.
        text: its declaration.
    """

    name: str
    zone: ZoneInfo
    columns: tuple[str, str]
    truth: dict[str, str]
    text: str

    def midnight(self, day: date) -> datetime:
        """The beginning of a local day, in UTC."""
        return datetime(day.year, day.month, day.day, tzinfo=self.zone).astimezone(UTC)

    def today(self) -> date:
        """The local day whose figures are not final yet."""
        return (datetime.now(UTC) - _SETTLED).astimezone(self.zone).date()

    def days(self) -> list[date]:
        """Those that are backfilled; all of them have ended."""
        return [self.today() - timedelta(days=number) for number in range(DAYS, 0, -1)]

    def recent_days(self) -> list[date]:
        """The last of these."""
        return self.days()[-RECENT_DAYS:]

    def weeks(self) -> list[date]:
        """Mondays of the whole weeks before, in each of which one query may ask for everything."""
        older = self.days()[:-RECENT_DAYS]
        return [day for day in older if day.weekday() == 0 and day + timedelta(days=7) <= older[-1] + timedelta(days=1)]

    def interval(self, first: date, end: date) -> str:
        """``start/end`` of local days, in UTC."""
        return "/".join(f"{self.midnight(day):%Y-%m-%dT%H:%M:%SZ}" for day in (first, end))


def _declared(name: str, zone: str, columns: tuple[str, str], granularity: str, text: str) -> Declared:
    truth = {"granularity": granularity, "groupBy": "queueId", "timeZone": zone}
    start = datetime.now(UTC).date() - timedelta(days=DAYS + 5)
    common = f"name: {name}\ntime_zone: {zone}\ngranularity: {granularity}\ngroup_by: [queueId]\nstart: {start}\n"
    return Declared(name, ZoneInfo(zone), columns, truth, f"{common}partition: day\n{text}")


_FRESHNESS = f"freshness: {{ttl: PT5S, recheck_delay: PT{RECHECK_SECONDS}S}}\n"

REPORTS = (
    _declared(
        "queue_hour",
        "Europe/Berlin",
        ("offered", "talk_ms"),
        "PT1H",
        "description: Offered by queue and hour\nplatform: reportdata\nquery_type: queue-performance\n"
        "metrics: [offered, talkMs]\nvolume_metric: offered\nfetch: {max_query_interval: P1W, expected_groups: 8}\n"
        + _FRESHNESS,
    ),
    _declared(
        "queue_half_hour",
        "America/New_York",
        ("n_offered", "t_talk_sum"),
        "PT30M",
        "description: Offered by queue and half hour\nplatform: genesys\nquery_type: conversations\n"
        "metrics: [nOffered, tTalk]\nvolume_metric: nOffered\nfetch: {max_query_interval: P1W, expected_groups: 8}\n"
        + _FRESHNESS,
    ),
)
