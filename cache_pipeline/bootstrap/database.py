"""The PostgreSQL database: its migration, and the deletion of rows that are no longer kept."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime

from cache_pipeline.bootstrap.reports import report_columns
from cache_pipeline.errors import HistoryRefused, HistoryUnavailable
from cache_pipeline.query.report import Report
from cache_pipeline.query.retention import kept_since
from cache_pipeline.query.schema import Column
from cache_pipeline.settings import Settings

logger = logging.getLogger(__name__)

_FIRST_RETRY_SECONDS = 0.5
_MAX_RETRY_SECONDS = 10.0


def migrate_history(settings: Settings, reports: Mapping[str, Report]) -> None:
    """Migrate PostgreSQL to the current version and these declarations.

    Raises:
        SettingsError: No URL is set.
        DeclarationConflict: A column would have to change its type.
        UnknownSchemaVersion: Another version of this package migrated the database.
    """
    from cache_pipeline.storage.postgres.schema_check import is_up_to_date

    declared = [(report, report_columns(report)) for report in reports.values()]
    arguments = (settings.required_postgres_url(), declared, settings.tenant, _lookups(declared))
    if is_up_to_date(*arguments):
        return
    # Imported here, because Alembic and SQLAlchemy take a third of a second to import and only migrations need them.
    from cache_pipeline.storage.postgres.migrate import migrate

    migrate(*arguments)


def pending_migrations(settings: Settings, reports: Mapping[str, Report]) -> list[str]:
    """Describe the changes that ``migrate_history`` would make.

    Raises:
        SettingsError: No URL is set.
        DeclarationConflict: A column would have to change its type.
        UnknownSchemaVersion: Another version of this package migrated the database.
        HistoryUnavailable: PostgreSQL cannot be reached.
    """
    from cache_pipeline.storage.postgres.migrate import pending_changes

    declared = [(report, report_columns(report)) for report in reports.values()]
    return pending_changes(settings.required_postgres_url(), declared, settings.tenant, _lookups(declared))


def _lookups(declared: Sequence[tuple[Report, tuple[Column, ...]]]) -> dict[str, dict[str, str]]:
    """Return the listings that have names for ids, by report and column."""
    from cache_pipeline.service.names import lookups_by_column

    return {report.name: lookups_by_column(report, columns) for report, columns in declared}


def migrate_when_available(
    settings: Settings,
    reports: Mapping[str, Report],
    *,
    sleep: Callable[[float], object] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Migrate PostgreSQL as soon as it can be reached; log every failed attempt.

    Args:
        settings: The settings of the deployment; ``startup_seconds`` limits the wait.
        reports: The declarations.
        sleep: Waits for a number of seconds.
        clock: A monotonic clock, in seconds.

    Raises:
        HistoryRefused: PostgreSQL refused the URL's user, password or database; raised at once.
        HistoryUnavailable: PostgreSQL could not be reached in time.
        SettingsError: No URL is set; raised at once.
        DeclarationConflict: A column would have to change its type; raised at once.
        UnknownSchemaVersion: Another version of this package migrated the database; raised at once.
    """
    deadline, pause, attempts = clock() + settings.startup_seconds, _FIRST_RETRY_SECONDS, 0
    while True:
        try:
            migrate_history(settings, reports)
        except HistoryRefused:
            raise
        except HistoryUnavailable as error:
            attempts += 1
            remaining = deadline - clock()
            if remaining <= 0:
                raise HistoryUnavailable(
                    f"{error} (tried {attempts} times in {settings.startup_seconds:.0f} s)"
                ) from error
            pause = min(pause, remaining)
            logger.warning(
                "attempt %d: %s; trying again in %.1f s, for at most %.0f s", attempts, error, pause, remaining
            )
            sleep(pause)
            pause = min(2 * pause, _MAX_RETRY_SECONDS)
        else:
            if attempts:
                logger.warning("PostgreSQL can be reached now")
            return


def expire_history(settings: Settings, reports: Iterable[Report], now: datetime) -> dict[str, int]:
    """Delete what reports that declare a retention do not keep any longer; return the number of deleted rows of each.

    Raises:
        SettingsError: No URL is set.
        HistoryUnavailable: PostgreSQL cannot be used.
    """
    limits = [(report, since) for report in reports if (since := kept_since(report, now)) is not None]
    if not limits:
        return {}
    from cache_pipeline.storage.postgres.expiry import open_expiry

    with open_expiry(settings.required_postgres_url()) as store:
        return {report.name: store.delete_before(report.name, settings.tenant, since) for report, since in limits}
