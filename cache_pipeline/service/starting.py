"""The start of a service that may come up before its database does."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

from cache_pipeline.query.report import Report
from cache_pipeline.service.engine import migrate_history
from cache_pipeline.settings import Settings
from cache_pipeline.storage.postgres.schemas import HistoryRefused, HistoryUnavailable

_LOG = logging.getLogger(__name__)
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.5, 10.0


def migrate_when_there(
    settings: Settings,
    reports: Mapping[str, Report],
    *,
    sleep: Callable[[float], object] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Bring PostgreSQL up to date as soon as it answers; a line is logged for every try in vain.

    Args:
        settings: of the deployment; ``startup_seconds`` bounds the wait.
        reports: the declarations.
        sleep: waits so many seconds.
        clock: seconds that only grow.

    Raises:
        HistoryRefused: it is there, and its URL is wrong: at once.
        HistoryUnavailable: it did not come in time.
        SettingsError, DeclarationConflict: as ``migrate_history`` does, at once.
    """
    deadline, pause, tries = clock() + settings.startup_seconds, _FIRST_PAUSE_SECONDS, 0
    while True:
        try:
            migrate_history(settings, reports)
        except HistoryRefused:
            raise
        except HistoryUnavailable as error:
            tries += 1
            left = deadline - clock()
            if left <= 0:
                raise HistoryUnavailable(
                    f"{error} (tried {tries} times in {settings.startup_seconds:.0f} s)"
                ) from error
            pause = min(pause, left)
            _LOG.warning("try %d: %s; again in %.1f s, for %.0f s at most", tries, error, pause, left)
            sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
        else:
            if tries:
                _LOG.warning("PostgreSQL is there now")
            return
