"""Workarounds for Dagster: interrupts in asyncio steps, signatures, beta features, batched events, connections, jobs by name.

Each function adapts one behaviour of Dagster and says which. Nothing here knows of reports.
"""

import asyncio
import inspect
import signal
import threading
import warnings
from collections.abc import Callable, Coroutine, Iterable, MutableMapping
from typing import Any, TypeVar

import dagster as dg
from dagster._core.definitions.target import AutomationTarget

T = TypeVar("T")
Function = TypeVar("Function", bound=Callable[..., Any])

_BATCH_SIZE_VARIABLE = "DAGSTER_EVENT_BATCH_SIZE"
# A server needs longer than this to restart, so a connection that a restart has closed is never reused.
_REUSE_SECONDS = 1


async def run_interruptibly(work: Coroutine[Any, Any, T]) -> T:
    """Await the work of a step; at SIGINT or SIGTERM cancel it, and let it release what it holds.

    Dagster raises its interrupt out of whatever the event loop does at that instant and leaves the loop's tasks as they
    are: their leases would be held until they expire, and an interrupt that hits a background task would be lost.

    Raises:
        DagsterExecutionInterruptedError: The step was interrupted.
        Exception: Whatever the work raises.
    """
    task = asyncio.ensure_future(work)
    # Signals arrive in the main thread only.
    if threading.current_thread() is not threading.main_thread():
        return await task
    loop, interrupted = asyncio.get_running_loop(), False

    def interrupt() -> None:
        nonlocal interrupted
        interrupted = True
        task.cancel()

    previous_handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in previous_handlers:
        loop.add_signal_handler(number, interrupt)
    try:
        return await task
    except asyncio.CancelledError:
        if interrupted:
            raise dg.DagsterExecutionInterruptedError from None
        raise
    finally:
        for number, handler in previous_handlers.items():
            loop.remove_signal_handler(number)
            if handler is not None:
                signal.signal(number, handler)


def cache_signature(function: Function) -> Function:
    """Store a function's signature on it: Dagster inspects each function many times, which adds up over many reports."""
    vars(function)["__signature__"] = inspect.signature(function)
    return function


def code_reference(path: str, line: int, label: str) -> dg.CodeReferencesMetadataValue:
    """Return metadata that links to a line of a file, without Dagster's warning that this is in beta."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        reference = dg.LocalFileCodeReference(file_path=path, line_number=line, label=label)
        return dg.CodeReferencesMetadataValue(code_references=[reference])


def write_events_in_batches(environment: MutableMapping[str, str]) -> None:
    """Let Dagster write up to fifty materialisations at once in this process, unless the environment says otherwise.

    Events that a step logs while it runs are not batched: a run that is killed keeps them.
    """
    environment.setdefault(_BATCH_SIZE_VARIABLE, "50")


def reuse_connections(instance: dg.DagsterInstance) -> None:
    """Let this process reuse a connection to Dagster's storage within a second, one for each kind of storage.

    The called method is named after the webserver, which asks Dagster for the same. No statement timeout is set. The
    connections are closed with the process, or when the instance is garbage-collected.
    """
    instance.optimize_for_webserver(statement_timeout=0, pool_recycle=_REUSE_SECONDS, max_overflow=-1)


def initialize_pool(instance: dg.DagsterInstance, pool: str) -> None:
    """Give a pool its default limit if it has none yet, as the first step of the pool would.

    If several processes do so at the same moment, PostgreSQL aborts the transactions of all but one, and Dagster fails their runs.
    """
    # Imported here: a code location is loaded without Dagster's storage.
    from sqlalchemy.exc import DBAPIError

    storage = instance.event_log_storage
    if pool in storage.get_concurrency_keys():
        return
    try:
        storage.initialize_concurrency_limit_to_default(pool)
    except DBAPIError:
        if pool not in storage.get_concurrency_keys():
            raise


class _SensorOverNamedJobs(dg.SensorDefinition):
    """A sensor that refers to its jobs by name."""

    def with_attributes(self, *, jobs: Any = None, metadata: Any = None) -> dg.SensorDefinition:
        """Return the sensor itself: Dagster would copy it without its jobs, to add where it was defined."""
        return self


def over_named_jobs(sensor: dg.SensorDefinition, names: Iterable[str]) -> dg.SensorDefinition:
    """Let a sensor launch jobs that other definitions contain.

    Dagster takes one job by name but several only as objects, and it refuses two objects of one name: components copy the
    jobs that they load.
    """
    sensor.__class__ = _SensorOverNamedJobs
    vars(sensor)["_targets"] = [AutomationTarget(name) for name in names]
    return sensor


def instance_tables() -> list[str]:
    """Return the names of all tables in which an instance keeps runs, events and schedules."""
    from dagster._core.storage.event_log.schema import SqlEventLogStorageMetadata
    from dagster._core.storage.runs.schema import RunStorageSqlMetadata
    from dagster._core.storage.schedules.schema import ScheduleStorageSqlMetadata

    parts = (SqlEventLogStorageMetadata, RunStorageSqlMetadata, ScheduleStorageSqlMetadata)
    return sorted({name for part in parts for name in part.tables})
