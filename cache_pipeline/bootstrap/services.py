"""The services: queries, exports, and forgetting a person."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from cache_pipeline.bootstrap.accounts import open_accounts
from cache_pipeline.bootstrap.clock import utc_now
from cache_pipeline.bootstrap.reports import report_columns
from cache_pipeline.bootstrap.stores import open_edge_tier, register_published
from cache_pipeline.errors import SettingsError
from cache_pipeline.fetch.write_events import OnStored, ignore_stored
from cache_pipeline.query.report import Report
from cache_pipeline.query.series import Series
from cache_pipeline.settings import Settings

# The stores and the upstream client take most of a second to import, so each is imported by the function that opens it.
if TYPE_CHECKING:
    from cache_pipeline.service.export import Exporter
    from cache_pipeline.service.forget import Receipt
    from cache_pipeline.service.report_service import ReportService


@asynccontextmanager
async def open_service(
    settings: Settings,
    on_stored: OnStored = ignore_stored,
    declared: Sequence[Report] = (),
    clock: Callable[[], datetime] = utc_now,
) -> AsyncGenerator[ReportService]:
    """Open the report service with all its connections; they are closed at the end.

    Args:
        settings: The settings of the deployment.
        on_stored: Called with what was written to history.
        declared: Reports whose rows may be rolled up to answer what another report lacks.
        clock: The current time in UTC.

    Raises:
        SettingsError: A URL is missing.
    """
    from cache_pipeline.redis_connection import open_redis
    from cache_pipeline.service.cached_answers import Hit, Miss, ProgressEvent
    from cache_pipeline.service.listed_names import ListedNames
    from cache_pipeline.service.live_answers import LiveAnswers
    from cache_pipeline.service.report_service import ReportService
    from cache_pipeline.storage.answer import Answer
    from cache_pipeline.storage.coalescer import Coalescer
    from cache_pipeline.storage.postgres.history import open_history
    from cache_pipeline.storage.postgres.ledger import open_ledger
    from cache_pipeline.storage.postgres.names import open_names
    from cache_pipeline.storage.redis.hot import RedisHotTier
    from cache_pipeline.storage.redis.single_flight import RedisSingleFlight

    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(open_redis(settings.required_redis_url()))
        accounts = await open_accounts(settings, redis, stack)
        hot, names = RedisHotTier(redis), stack.enter_context(open_names(settings.required_postgres_url()))
        single_flight = await stack.enter_async_context(RedisSingleFlight(redis))
        names_coalescer = await stack.enter_async_context(Coalescer[datetime, None]())
        live_coalescer = await stack.enter_async_context(Coalescer[Answer, None]())
        yield ReportService(
            accounts=accounts.adapters,
            history=stack.enter_context(
                open_history(settings.required_postgres_url(), settings.optional_postgres_read_url())
            ),
            hot=hot,
            ledger=stack.enter_context(open_ledger(settings.required_postgres_url())),
            single_flight=single_flight,
            coalescer=await stack.enter_async_context(Coalescer[Hit | Miss, ProgressEvent]()),
            names=names,
            live=LiveAnswers(accounts.clients, hot, names, single_flight, live_coalescer, clock),
            listings=ListedNames(accounts.clients, names, single_flight, names_coalescer, clock),
            clock=clock,
            tenant=settings.tenant,
            on_stored=on_stored,
            declared=declared,
            job_pollers=accounts.job_pollers,
            retention=accounts.retention,
        )


@contextmanager
def open_exporter(settings: Settings, report: Report, url: str | None = None) -> Generator[Exporter]:
    """Open the export of a report to a warehouse, by default the settings' own.

    Raises:
        SettingsError: No URL is set.
        WarehouseRefused: The warehouse's URL cannot be used.
    """
    from cache_pipeline.service.export import Exporter
    from cache_pipeline.storage.postgres.history import open_history
    from cache_pipeline.storage.postgres.warehouse_exports import open_export_records
    from cache_pipeline.storage.warehouse.destinations import dataset_name, open_warehouse

    postgres_url = settings.required_postgres_url()
    if url is None:
        if settings.warehouse_url is None:
            raise SettingsError(
                "CACHE_PIPELINE_WAREHOUSE_URL is not set: set it to the warehouse's URL, such as duckdb:///data/warehouse.duckdb"
            )
        url = settings.warehouse_url.get_secret_value()
    warehouse = open_warehouse(url, settings.data_dir)
    with open_history(postgres_url) as history, open_export_records(postgres_url) as records:
        yield Exporter(
            history,
            warehouse,
            records,
            Series(report, settings.tenant),
            report_columns(report),
            dataset_name(url, settings.tenant),
        )


async def forget(
    settings: Settings,
    reports: Mapping[str, Report],
    identifier: str,
    *,
    pseudonymise: bool,
    logs: Sequence[Path] = (),
    dagster_tables: Sequence[str] = (),
) -> Receipt:
    """Forget a person in every store of a deployment.

    Args:
        settings: The settings of the deployment.
        reports: The declared reports.
        identifier: An id or an address of the person.
        pseudonymise: Whether a pseudonym takes the place of the id in rows, which otherwise are removed.
        logs: Files and folders with logs, in addition to those of Dagster in the data folder.
        dagster_tables: The names of Dagster's tables.

    Raises:
        SettingsError: A URL is missing.
        CommandError: The id is too short to be searched for, or another process forgets someone.
    """
    from cache_pipeline.query.person import Person, pseudonym_of
    from cache_pipeline.redis_connection import open_redis
    from cache_pipeline.service.forget import forget_person
    from cache_pipeline.service.republish import republish
    from cache_pipeline.storage.personal_files import LogFiles, StagedFiles
    from cache_pipeline.storage.postgres.history import open_history
    from cache_pipeline.storage.postgres.personal_data import open_personal_data
    from cache_pipeline.storage.published.personal_data import PublishedPersonalData
    from cache_pipeline.storage.redis.personal_data import RedisPersonalData

    # An invalid id is refused before anything is opened.
    person, url, edge = Person(identifier), settings.required_postgres_url(), open_edge_tier(settings)
    series = {name: Series(report, settings.tenant) for name, report in reports.items()}

    def publish_again(name: str) -> None:
        if name in series:
            with open_history(url) as history:
                republish(history, edge, series[name], report_columns(reports[name]))

    with open_personal_data(url, reports, dagster_tables) as database:
        person = Person(identifier, pseudonym_of(identifier, database.salt()), keeps_rows=pseudonymise)
        async with open_redis(settings.required_redis_url()) as redis:
            receipt = await forget_person(
                person,
                [
                    StagedFiles(settings.staged_dir),
                    database,
                    PublishedPersonalData(edge, publish_again, lambda: register_published(settings, edge)),
                    RedisPersonalData(redis),
                    LogFiles([settings.data_dir / "dagster", *logs]),
                ],
            )
        database.delete_salt()
    return receipt
