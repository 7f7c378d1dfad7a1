"""Read rows from a replica of PostgreSQL, as long as it has everything that the primary had committed when the read began."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager

from adbc_driver_manager import Error

from cache_pipeline.errors import HistoryUnavailable, ReplicaUnavailable
from cache_pipeline.storage.postgres.arrow import ArrowCursor
from cache_pipeline.storage.postgres.connections import ConnectionPool

logger = logging.getLogger(__name__)

#: A replica is usually milliseconds late, which is worth waiting for.
_MAX_WAIT_SECONDS = 0.25
_POLL_SECONDS = 0.01
#: After a failure the replica is not used for this long, so that not every read waits for it.
_PAUSE_SECONDS = 10.0
#: After it was too late it is not used for this long. One that was promoted is always too late.
_LATE_PAUSE_SECONDS = 1.0
#: One that was promoted no longer follows the primary.
_HAS_REPLAYED = "SELECT pg_is_in_recovery() AND pg_last_wal_replay_lsn() >= '{}'::pg_lsn"


class ReadReplica:
    """A replica that is connected to when it is first used. Close it after use.

    Args:
        url: URL of the replica, which follows the primary of history.
        clock: Monotonic seconds.
        sleep: Waits for some seconds.
    """

    def __init__(
        self, url: str, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], object] = time.sleep
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._connections = ConnectionPool(url)
        self._paused_until = 0.0
        self._has_failed = False

    @contextmanager
    def transaction(self, read_position: Callable[[], str]) -> Generator[ArrowCursor | None]:
        """Yield a cursor of the replica, or None if it is not available or too late.

        Args:
            read_position: Reads the position in the primary's log up to which the replica must have replayed it.

        Raises:
            ReplicaUnavailable: The replica failed after the cursor was used. The next read uses the primary.
        """
        with ExitStack() as stack:
            cursor = self._caught_up(stack, read_position)
            try:
                yield cursor
            except (HistoryUnavailable, Error) as error:
                self._pause(error)
                raise ReplicaUnavailable("the replica of PostgreSQL failed during a read: try again") from error

    def close(self) -> None:
        """Close all connections."""
        self._connections.close()

    def _caught_up(self, stack: ExitStack, read_position: Callable[[], str]) -> ArrowCursor | None:
        """Return a cursor once the replica has replayed a position, or None if it does not in time."""
        if self._is_paused():
            return None
        position = read_position()
        try:
            with ExitStack() as opened:
                cursor = opened.enter_context(self._connections.transaction())
                if not self._wait_until_replayed(cursor, position):
                    logger.debug("the replica of PostgreSQL is late, so rows are read from the primary")
                    self._paused_until = self._clock() + _LATE_PAUSE_SECONDS
                    return None
                stack.enter_context(opened.pop_all())
        except (HistoryUnavailable, Error) as error:
            self._pause(error)
            return None
        if self._has_failed:
            self._has_failed = False
            logger.warning("the replica of PostgreSQL is available again")
        return cursor

    def _wait_until_replayed(self, cursor: ArrowCursor, position: str) -> bool:
        deadline = self._clock() + _MAX_WAIT_SECONDS
        while True:
            cursor.execute(_HAS_REPLAYED.format(position))
            if cursor.fetchone() == (True,):
                return True
            if self._clock() >= deadline:
                return False
            self._sleep(_POLL_SECONDS)

    def _is_paused(self) -> bool:
        return self._clock() < self._paused_until

    def _pause(self, error: BaseException) -> None:
        if not self._has_failed:
            self._has_failed = True
            # Not the driver's own text, which may repeat parts of the URL.
            logger.warning(
                "the replica of PostgreSQL is unavailable (%s), so rows are read from the primary; check"
                " CACHE_PIPELINE_POSTGRES_READ_URL",
                type(error).__name__,
            )
        self._paused_until = self._clock() + _PAUSE_SECONDS
