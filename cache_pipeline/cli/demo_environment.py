"""The environment of ``demo`` and ``dev``: embedded servers, a simulated vendor, and stores and accounts of their own.

Nothing of a real deployment is used, whatever the environment and ``.env`` say: its history would receive simulated figures.
The processes run in a folder without ``.env``, because Dagster and the settings read that file from their working folder.
"""

import hashlib
import json
import os
import secrets
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from pathlib import Path

from dotenv import dotenv_values
from pydantic import SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from cache_pipeline.bootstrap.reports import load_reports
from cache_pipeline.cli.project_files import read_project_file
from cache_pipeline.embedded import embedded_servers
from cache_pipeline.errors import CommandError
from cache_pipeline.query.report import DEFAULT_ACCOUNT, Cadence, Report, account_setting
from cache_pipeline.settings import Settings, StandaloneSettings, VendorAccount
from cache_pipeline.simulator.server import running_simulator
from cache_pipeline.simulator.settings import SIMULATED_VENDORS, TRUNCATED_DAYS, SimulatorSettings

_PREFIX = "CACHE_PIPELINE_"
#: Variables of the test suite, which no program reads.
_TEST_PREFIX = "CACHE_PIPELINE_TEST_"
_CLIENTS = 4
_EASTMOST = timedelta(hours=14)
#: Enough for a week to be compared with the one before, in reports that take few requests for it, and the days of others.
WEEKS, _WEEK = timedelta(days=28), timedelta(days=7)
#: Longer than the simulated vendor's watermark lags and the reports' settle time: by then a day's figures are final.
_SETTLED = timedelta(minutes=20)


@dataclass(frozen=True)
class DemoRequest:
    """What a person asked for on the command line.

    Attributes:
        arrivals: The file of real volumes, or None for simulated ones.
        arrivals_zone: The time zone of its wall clock.
        first_day: The first local day to backfill; by default four weeks before today in UTC, or one of reports by quarter of an hour.
        end_day: The local day after the last; by default today, as it is in each report's zone.
    """

    arrivals: Path | None
    arrivals_zone: str
    first_day: date | None
    end_day: date | None

    def check(self, now: datetime) -> None:
        """Refuse what no report could be backfilled for.

        Raises:
            CommandError: The days are reversed or in the future everywhere, or past volumes lack one of both ends.
        """
        if self.arrivals is not None and (self.first_day is None or self.end_day is None):
            raise CommandError("past volumes need both ends: for example FROM=1999-01-04 TO=1999-01-18")
        if self.end_day is not None and self.end_day > (now + _EASTMOST).date():
            raise CommandError(f"TO={self.end_day} is in the future: TO is the day after the last day, at most today")
        first, end = self.days(now, UTC)
        if first >= end:
            raise CommandError(f"FROM={first} does not lie before TO={end}: the interval is half-open, FROM/TO")

    def days(self, now: datetime, zone: tzinfo, length: timedelta = WEEKS) -> tuple[date, date]:
        """Return the first day of a report and the day after the last; only days that have ended and settled in its zone.

        All reports begin with the same date, which is the first of their partitions, whatever the date is in their zones now.

        Args:
            now: The current time.
            zone: The report's time zone.
            length: How many days there are in UTC if the first is not given; elsewhere there may be one more or one less.
        """
        return self.first_day or self._end(now, UTC) - length, self._end(now, zone)

    def _end(self, now: datetime, zone: tzinfo) -> date:
        today = (now - _SETTLED).astimezone(zone).date()
        return min(self.end_day or today, today)


@dataclass(frozen=True)
class DemoEnvironment:
    """A running set of servers.

    Attributes:
        environment: The environment variables of the processes that use them.
        folder: The working folder of these processes.
        project: The project's folder.
        settings: The same settings, read.
        ignored: The names of the settings that the environment and ``.env`` have, and that are not used.
        simulator_url: The base URL of the simulated vendor.
        request: What the user asked for.
        now: When it was started.
    """

    environment: Mapping[str, str]
    folder: Path
    project: Path
    settings: Settings
    ignored: tuple[str, ...]
    simulator_url: str
    request: DemoRequest
    now: datetime

    def days(self, report: Report) -> tuple[date, date]:
        """Return the first local day of a report's backfill, and the one after the last."""
        return self.request.days(self.now, report.zone, _WEEK if report.partition is Cadence.hour else WEEKS)


class _ProjectFolders(BaseSettings):
    """The only settings of a project that a demo uses: where its declarations are, and where it may write."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, env_file=".env", extra="ignore")

    reports_dir: Path = Path("reports")
    data_dir: Path = Path("data")


def project_folder() -> Path:
    """Return the folder with ``dagster.yaml``, in which the commands that start Dagster run.

    Raises:
        CommandError: This is another folder.
    """
    folder = Path.cwd()
    if not (folder / "dagster.yaml").exists():
        raise CommandError(
            f"{folder} has no dagster.yaml: change to the project's folder, or make one with `cache-pipeline init DIR`"
        )
    return folder


@contextmanager
def run_demo_environment(request: DemoRequest, now: datetime) -> Generator[DemoEnvironment]:
    """Start everything, and stop it at the end. Mistakes that can be seen are reported before anything is written.

    Raises:
        CommandError, DeclarationError, EmbeddedServerError, SimulatorError, SettingsError: Something of it is wrong; each is one line.
    """
    project = project_folder()
    request.check(now)
    folders = _ProjectFolders()
    # The figures of one vendor must not be taken for another's, so each set of volumes has its own folder.
    data_dir = (folders.data_dir / _name(request)).resolve()
    reports_dir = folders.reports_dir.resolve()
    load_reports(StandaloneSettings(reports_dir=reports_dir))
    credentials = {f"demo-client-{number + 1}": SecretStr(secrets.token_urlsafe(24)) for number in range(_CLIENTS)}
    try:
        simulated = SimulatorSettings(
            clients=credentials, arrivals=request.arrivals, arrivals_zone=request.arrivals_zone, **TRUNCATED_DAYS
        )
    except ValidationError as error:
        raise CommandError("; ".join(problem["msg"] for problem in error.errors())) from None
    with embedded_servers(data_dir / "servers") as servers, running_simulator(simulated) as simulator_url:
        home = data_dir / "dagster_home"
        home.mkdir(exist_ok=True)
        (home / "dagster.yaml").write_text(read_project_file("dagster.yaml"))
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
            "CACHE_PIPELINE_DATA_DIR": str(data_dir),
            "CACHE_PIPELINE_REPORTS_DIR": str(reports_dir),
            **{account_setting(f"{name}/{DEFAULT_ACCOUNT}"): account for name in SIMULATED_VENDORS},
            "DAGSTER_HOME": str(home),
        }
        if request.arrivals is None:
            # Otherwise the sensors of `dev` would first fetch a hundred days.
            added["CACHE_PIPELINE_PARTITIONS_FROM"] = request.days(now, UTC)[0].isoformat()
        elif request.first_day is not None and request.end_day is not None:
            added["CACHE_PIPELINE_PARTITIONS_FROM"] = request.first_day.isoformat()
            added["CACHE_PIPELINE_PARTITIONS_TO"] = request.end_day.isoformat()
        vendor = VendorAccount.model_validate_json(account)
        settings = StandaloneSettings(
            data_dir=data_dir,
            reports_dir=reports_dir,
            postgres_url=SecretStr(servers.postgres_url),
            redis_url=SecretStr(servers.redis_url),
            accounts={name: {DEFAULT_ACCOUNT: vendor} for name in SIMULATED_VENDORS},
        )
        inherited = {name: value for name, value in os.environ.items() if not name.upper().startswith(_PREFIX)}
        yield DemoEnvironment(
            environment={**inherited, **added},
            folder=home,
            project=project,
            settings=settings,
            ignored=_ignored_settings(project),
            simulator_url=simulator_url,
            request=request,
            now=now,
        )


def _ignored_settings(project: Path) -> tuple[str, ...]:
    """Return the names of the settings in the environment and ``.env`` that a demo does not use."""
    given = {name.upper() for name in (*os.environ, *dotenv_values(project / ".env"))}
    used = {f"{_PREFIX}{name.upper()}" for name in _ProjectFolders.model_fields}
    return tuple(
        sorted(name for name in given - used if name.startswith(_PREFIX) and not name.startswith(_TEST_PREFIX))
    )


def _name(request: DemoRequest) -> str:
    if request.arrivals is None:
        return "demo"
    try:
        content = request.arrivals.read_bytes()
    except OSError as error:
        raise CommandError(f"{request.arrivals} cannot be read: {error.strerror}") from error
    digest = hashlib.sha256(content + request.arrivals_zone.encode()).hexdigest()[:8]
    return f"arrivals-{digest}"
