"""The environment of ``demo`` and ``dev``: embedded servers where no URL is set, a simulated vendor, and its accounts."""

import hashlib
import json
import os
import secrets
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from pydantic import SecretStr, ValidationError

from cache_pipeline.bootstrap import load_reports
from cache_pipeline.embedded import embedded_servers
from cache_pipeline.errors import CommandError
from cache_pipeline.query.report import Report
from cache_pipeline.settings import Settings, VendorAccount, read_settings
from cache_pipeline.simulator.server import running_simulator
from cache_pipeline.simulator.settings import SimulatorSettings

_CLIENTS = 4
_EASTMOST = timedelta(hours=14)
#: Longer than the simulated vendor's watermark lags and the reports' settle time: by then a day's figures are final.
_SETTLED = timedelta(minutes=20)
#: Less than a day of quarter hours has, so that the way from a truncated answer to a proven one is seen.
_MAX_ROWS = 1000


@dataclass(frozen=True)
class DemoRequest:
    """What a person asked for on the command line.

    Attributes:
        arrivals: file of real volumes, or None for made-up ones.
        arrivals_zone: zone of its wall clock.
        first_day: first local day to backfill; by default seven before the end.
        end_day: local day after the last; by default today, as it is in each report's zone.
    """

    arrivals: Path | None
    arrivals_zone: str
    first_day: date | None
    end_day: date | None

    def check(self, now: datetime) -> None:
        """Refuse what no report could be backfilled for.

        Raises:
            CommandError: reversed, in the future everywhere, or past volumes without both ends.
        """
        if self.arrivals is not None and (self.first_day is None or self.end_day is None):
            raise CommandError("past volumes need both ends: FROM=1999-01-04 TO=1999-01-18, say")
        if self.end_day is not None and self.end_day > (now + _EASTMOST).date():
            raise CommandError(f"TO={self.end_day} is in the future: TO is the day after the last day, at most today")
        first, end = self.days(now, ZoneInfo("UTC"))
        if first >= end:
            raise CommandError(f"FROM={first} does not lie before TO={end}: the interval is half-open, FROM/TO")

    def days(self, now: datetime, zone: ZoneInfo) -> tuple[date, date]:
        """First day in a report's zone, and the day after the last; only days that have ended, and settled, there."""
        today = (now - _SETTLED).astimezone(zone).date()
        end = min(self.end_day or today, today)
        return self.first_day or end - timedelta(days=7), end


@dataclass(frozen=True)
class DemoEnvironment:
    """A running set of servers.

    Attributes:
        environment: for the processes that are to use them.
        settings: the same, read.
        simulator_url: base URL of the simulated vendor.
        wish: what was asked for.
        now: when it was started.
        embedded: Whether the servers are embedded in this process, so that no other process can have a run on them.
    """

    environment: Mapping[str, str]
    settings: Settings
    simulator_url: str
    wish: DemoRequest
    now: datetime
    embedded: bool

    def days(self, report: Report) -> tuple[date, date]:
        """First local day of a report's backfill, and the one after the last."""
        return self.wish.days(self.now, report.zone)


def project_folder() -> Path:
    """Return the folder with ``dagster.yaml``, in which the commands that start Dagster run.

    Raises:
        CommandError: this is another folder.
    """
    folder = Path.cwd()
    if not (folder / "dagster.yaml").exists():
        raise CommandError(f"{folder} has no dagster.yaml: change to the project's folder first")
    return folder


@contextmanager
def run_demo_environment(wish: DemoRequest, now: datetime) -> Generator[DemoEnvironment]:
    """Start everything, and stop it at the end. What can be seen to be wrong is said before anything is written.

    Raises:
        CommandError, DeclarationError, EmbeddedServerError, SimulatorError, SettingsError: one line each.
    """
    folder = project_folder()
    wish.check(now)
    given = read_settings()
    load_reports(given)
    # Another vendor's figures must not be taken for this one's, so each set of volumes has a folder of its own.
    data_dir = given.data_dir / _name(wish)
    credentials = {f"demo-client-{number + 1}": SecretStr(secrets.token_urlsafe(24)) for number in range(_CLIENTS)}
    try:
        simulated = SimulatorSettings(
            clients=credentials,
            arrivals=wish.arrivals,
            arrivals_zone=wish.arrivals_zone,
            reportdata_max_rows=_MAX_ROWS,
        )
    except ValidationError as error:
        raise CommandError("; ".join(problem["msg"] for problem in error.errors())) from None
    postgres_url, redis_url = given.postgres_url, given.redis_url
    with (
        embedded_servers(
            data_dir / "servers",
            postgres_url=postgres_url.get_secret_value() if postgres_url else None,
            redis_url=redis_url.get_secret_value() if redis_url else None,
        ) as servers,
        running_simulator(simulated) as simulator_url,
    ):
        account = json.dumps(
            {
                "base_url": simulator_url,
                "login_url": f"{simulator_url}/oauth/token",
                "clients": [
                    {"client_id": client_id, "client_secret": secret.get_secret_value()}
                    for client_id, secret in credentials.items()
                ],
            }
        )
        added = {
            "CACHE_PIPELINE_POSTGRES_URL": servers.postgres_url,
            "CACHE_PIPELINE_REDIS_URL": servers.redis_url,
            "CACHE_PIPELINE_DATA_DIR": str(data_dir.resolve()),
            "CACHE_PIPELINE_REPORTDATA": account,
            "CACHE_PIPELINE_GENESYS": account,
            "DAGSTER_HOME": str(folder),
        }
        if wish.arrivals is not None and wish.first_day is not None and wish.end_day is not None:
            added["CACHE_PIPELINE_PARTITIONS_FROM"] = wish.first_day.isoformat()
            added["CACHE_PIPELINE_PARTITIONS_TO"] = wish.end_day.isoformat()
        vendor = VendorAccount.model_validate_json(account)
        settings = given.model_copy(
            update={
                "postgres_url": SecretStr(servers.postgres_url),
                "redis_url": SecretStr(servers.redis_url),
                "data_dir": data_dir.resolve(),
                "reportdata": vendor,
                "genesys": vendor,
            }
        )
        environment = {**os.environ, **added}
        yield DemoEnvironment(environment, settings, simulator_url, wish, now, embedded=postgres_url is None)


def _name(wish: DemoRequest) -> str:
    if wish.arrivals is None:
        return "demo"
    try:
        content = wish.arrivals.read_bytes()
    except OSError as error:
        raise CommandError(f"{wish.arrivals} cannot be read: {error.strerror}") from error
    digest = hashlib.sha256(content + wish.arrivals_zone.encode()).hexdigest()[:8]
    return f"arrivals-{digest}"
