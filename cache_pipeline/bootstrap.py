"""Builds the services from the settings: stores, vendor connections, quotas and the report service."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cache_pipeline.errors import HistoryRefused, HistoryUnavailable, SettingsError
from cache_pipeline.fetch.write_events import OnStored, ignore_stored
from cache_pipeline.query.declarations import (
    Declaration,
    DeclarationError,
    LiveDeclaration,
    LiveRules,
    Mistake,
    read_declarations,
    read_report,
)
from cache_pipeline.query.lane import Lane
from cache_pipeline.query.live_report import LiveReport
from cache_pipeline.query.measure_columns import find_measure_problems
from cache_pipeline.query.publication import find_publication_problems
from cache_pipeline.query.report import Report
from cache_pipeline.query.report_schema import report_json_schema_text
from cache_pipeline.query.retention import kept_since
from cache_pipeline.query.schema import Column, ColumnKind, find_invalid_names
from cache_pipeline.query.series import DEFAULT_TENANT, Series
from cache_pipeline.settings import ACCOUNT_NAME, Settings, VendorAccount, account_ids
from cache_pipeline.upstream.http import httpx
from cache_pipeline.vendors.declaration_rules import (
    find_live_problems,
    find_vendor_problems,
    use_row_keys,
    use_vendor_measures,
)
from cache_pipeline.vendors.registry import (
    find_vendor,
    has_vendor,
    live_query_types,
    read_account,
    read_accounts,
    vendor_names,
)
from cache_pipeline.vendors.spec import VendorSpec

# The stores and the upstream client take most of a second to import, so each is imported by the function that opens it.
if TYPE_CHECKING:
    from redis.asyncio import Redis

    from cache_pipeline.service.export import Exporter
    from cache_pipeline.service.forget import Receipt
    from cache_pipeline.service.names import Names
    from cache_pipeline.service.planner import QuotaHeadroom
    from cache_pipeline.service.report_service import ReportService
    from cache_pipeline.storage.ports.hot import HotTier
    from cache_pipeline.storage.published import EdgeTier
    from cache_pipeline.storage.published.iceberg import Registration
    from cache_pipeline.upstream.config import RetryPolicy, UpstreamConfig
    from cache_pipeline.upstream.quota import Quota, QuotaPolicy
    from cache_pipeline.vendors.base import VendorAdapter

logger = logging.getLogger(__name__)
AnyReport = TypeVar("AnyReport", Report, LiveReport)

#: Requests of the vendor's limit that are never sent.
_QUOTA_RESERVE = 3
_FIRST_RETRY_SECONDS = 0.5
_MAX_RETRY_SECONDS = 10.0


def utc_now() -> datetime:
    """Return the current time in UTC."""
    return datetime.now(UTC)


class Declarations:
    """Reads declarations of reports by the rules of their vendors and with the accounts of the settings.

    Args:
        settings: The settings; None reads declarations as if no account were set.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self._accounts = {} if settings is None else {name: list(each) for name, each in settings.accounts.items()}

    def read(self, path: Path) -> Report:
        """Read one declaration.

        Raises:
            DeclarationError: It is invalid; the error lists every mistake.
        """
        return read_report(path, self.find_problems, self.complete)

    def read_folder(self, folder: Path) -> dict[str, Declaration]:
        """Read every declaration in a folder.

        Raises:
            DeclarationError: Some are invalid; the error lists every mistake.
        """
        return self.read_all(folder)[0]

    def read_live(self, folder: Path) -> dict[str, LiveDeclaration]:
        """Read every declaration in a folder, and return those of live reports.

        Raises:
            DeclarationError: Some are invalid; the error lists every mistake.
        """
        return self.read_all(folder)[1]

    def read_all(self, folder: Path) -> tuple[dict[str, Declaration], dict[str, LiveDeclaration]]:
        """Read every declaration in a folder, and return the reports and the live reports.

        Raises:
            DeclarationError: Some are invalid; the error lists every mistake.
        """
        rules = LiveRules(live_query_types(), self._name_account, self.find_live_problems)
        declared, live = read_declarations(folder, self.find_problems, self.complete, rules)
        mistakes = [
            Mistake(each.file, each.line, field, problem)
            for each in live.values()
            for field, problem in _find_service_level_problems(each.report, declared)
        ] + [
            Mistake(each.file, each.line, "live", problem)
            for each in declared.values()
            for problem in _find_live_part_problems(each.report, live)
        ]
        if mistakes:
            raise DeclarationError(mistakes)
        return declared, live

    def complete(self, report: Report) -> Report:
        """Return a report with what it leaves out.

        That is its account, if its vendor has only one, the key of its rows, and the vendor's measures.
        """
        return use_vendor_measures(self._name_account(use_row_keys(report)))

    def _name_account(self, report: AnyReport) -> AnyReport:
        accounts = self._accounts.get(report.platform, [])
        if report.account is None and len(accounts) == 1:
            return report.model_copy(update={"account": accounts[0]})
        return report

    def find_live_problems(self, report: LiveReport) -> Iterator[tuple[str, str]]:
        """Yield the problems of a live report that only its vendor and the settings show, as (field, problem)."""
        if problem := _find_platform_problem(report):
            yield problem
            return
        yield from self._find_account_problem(report)
        yield from find_live_problems(report)

    def find_problems(self, report: Report) -> Iterator[tuple[str, str]]:
        """Yield the problems of a declaration that only its vendor and the settings show, as (field, problem)."""
        if problem := _find_platform_problem(report):
            yield problem
            return
        yield from self._find_account_problem(report)
        problems = list(find_vendor_problems(report))
        yield from problems
        if not problems:
            columns = report_columns(report)
            for column, problem in find_invalid_names(columns):
                yield "group_by" if column.kind is ColumnKind.dimension else "metrics", problem
            yield from find_publication_problems(report, columns)
            yield from find_measure_problems(report.measures, columns)

    def _find_account_problem(self, report: Report | LiveReport) -> Iterator[tuple[str, str]]:
        accounts = self._accounts.get(report.platform, [])
        if report.account is None and len(accounts) > 1:
            yield (
                "account",
                f"is missing, and {report.platform} has several accounts: name one of {', '.join(accounts)}",
            )
        elif report.account is not None and not ACCOUNT_NAME.fullmatch(report.account):
            yield "account", f"{report.account[:80]!r} is not a name of an account, such as main"
        elif report.account is not None and accounts and report.account not in accounts:
            yield (
                "account",
                f"unknown account {report.account!r} of {report.platform}; expected one of {', '.join(accounts)}, or set "
                f"{report.account_setting()}",
            )


def _find_platform_problem(report: Report | LiveReport) -> tuple[str, str] | None:
    if has_vendor(report.platform):
        return None
    return "platform", f"unknown platform {report.platform!r}; expected one of {', '.join(vendor_names())}"


def _find_service_level_problems(live: LiveReport, declared: Mapping[str, Declaration]) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with the report from which a live report takes the day's service level."""
    if (source := live.service_level) is None:
        return
    if source.report not in declared:
        yield "service_level.report", f"there is no report {source.report!r}; declared reports: {', '.join(declared)}"
        return
    report = declared[source.report].report
    if lacking := [dimension for dimension in live.group_by if dimension not in report.group_by]:
        yield "service_level.report", f"{report.name} is not by {', '.join(lacking)}, as {live.name} is"
        return
    shares = [name for name, measure in report.measures.items() if measure is not None and measure.kind == "share"]
    if source.measure not in shares:
        yield (
            "service_level.measure",
            f"{report.name} has no measure {source.measure!r} that is a share; it has {', '.join(shares) or 'none'}",
        )


def _find_live_part_problems(report: Report, live_reports: Mapping[str, LiveDeclaration]) -> Iterator[str]:
    """Yield what is wrong with the live report whose figures a report wants beside its own."""
    if report.live is None:
        return
    # Imported here: most declarations have none, and what it needs takes long to import.
    from cache_pipeline.query.live_part import find_live_part_problems

    found = live_reports[report.live].report if report.live in live_reports else None
    columns = find_vendor(found.platform).live[found.query_type].columns(found) if found else ()
    yield from find_live_part_problems(report, report_columns(report), found, columns)


def report_schema_text() -> str:
    """Return the JSON Schema of a report declaration, for editors."""
    return report_json_schema_text(
        vendor_names(), sorted({kind for name in vendor_names() for kind in find_vendor(name).rows}), live_query_types()
    )


def load_reports(settings: Settings, folder: Path | None = None) -> dict[str, Report]:
    """Read the declarations in a folder, by default the settings' own, and check them against their vendors.

    Raises:
        DeclarationError: Some are invalid; the error lists every mistake.
    """
    return {name: each.report for name, each in load_declarations(settings, folder).items()}


def load_all_reports(settings: Settings) -> tuple[dict[str, Report], dict[str, LiveReport]]:
    """Read the declarations in the settings' folder once, and return the reports and the live reports by name.

    Raises:
        DeclarationError: As ``load_reports``.
    """
    declared, live = Declarations(settings).read_all(settings.reports_dir)
    return {name: each.report for name, each in declared.items()}, {name: each.report for name, each in live.items()}


def load_declarations(settings: Settings, folder: Path | None = None) -> dict[str, Declaration]:
    """Read the same, with the place of each declaration.

    Raises:
        DeclarationError: As ``load_reports``.
    """
    return Declarations(settings).read_folder(folder or settings.reports_dir)


def report_columns(report: Report) -> tuple[Column, ...]:
    """Return the columns of a report's answers; this needs no vendor account."""
    return find_vendor(report.platform).adapter.columns(report)


def refetch_window(report: Report) -> timedelta | None:
    """Return the declared refetch window or, without one, the vendor's: at least one partition. None means never.

    A declaration of `refetch_window: null` switches it off.
    """
    if "refetch_window" in report.fetch.model_fields_set:
        return report.fetch.refetch_window
    window = find_vendor(report.platform).refetch_window
    return max(window, report.partition.step.nominal_length) if window else None


def migrate_history(settings: Settings, reports: Mapping[str, Report]) -> None:
    """Migrate PostgreSQL to the current version and these declarations.

    Raises:
        SettingsError: No URL is set.
        DeclarationConflict: A column would have to change its type.
        UnknownSchemaVersion: Another version of this package migrated the database.
    """
    # Imported here, because Alembic and SQLAlchemy take a third of a second to import and only migrations need them.
    from cache_pipeline.storage.postgres.migrate import migrate

    declared = [(report, report_columns(report)) for report in reports.values()]
    migrate(settings.required_postgres_url(), declared, settings.tenant, _lookups(declared))


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


def open_edge_tier(settings: Settings) -> EdgeTier:
    """Return the edge tier that the settings name."""
    from cache_pipeline.storage.published import EdgeTier

    return EdgeTier(settings.edge_store_url, utc_now, settings.tenant)


def register_published(settings: Settings, edge: EdgeTier) -> list[Registration]:
    """Register the published files in the Iceberg catalogue that the settings name; without one, nothing is done.

    Raises:
        EdgeStoreError: The catalogue or the store cannot be used.
    """
    if settings.iceberg_catalog_url is None:
        return []
    from cache_pipeline.storage.published.iceberg import IcebergCatalog

    store_url = settings.edge_store_url.rstrip("/")
    namespace = "cache_pipeline" if settings.tenant == DEFAULT_TENANT else f"cache_pipeline_{settings.tenant}"
    catalog = IcebergCatalog(settings.iceberg_catalog_url.get_secret_value(), store_url, namespace)
    return catalog.register(edge, f"{store_url}/v1/{settings.tenant}")


def _upstream_config(account_id: str, account: VendorAccount, vendor: VendorSpec[Any]) -> UpstreamConfig:
    from cache_pipeline.upstream.config import OAuthClient, UpstreamConfig
    from cache_pipeline.upstream.quota import QuotaPolicy

    addresses, capabilities = vendor.addresses(account), vendor.adapter.capabilities
    return UpstreamConfig(
        account=account_id,
        base_url=addresses.base_url,
        login_url=addresses.login_url,
        issuer=addresses.issuer,
        clients=tuple(
            OAuthClient(client_id=client.client_id, client_secret=client.client_secret, weight=client.weight)
            for client in account.clients
        ),
        dialect=vendor.dialect,
        policy=QuotaPolicy(
            limit=account.rate_limit or capabilities.requests,
            window_seconds=account.window_seconds or capabilities.window_seconds,
            # The reserve keeps the vendor's own remaining count above the mark at which a client pauses (G16).
            reserve=_QUOTA_RESERVE if capabilities.has_remaining_header else 0,
            default_pause_seconds=account.pause_seconds,
            organisation_limit=account.organisation_rate_limit,
            concurrent_jobs=account.concurrent_jobs,
            monthly_requests=account.monthly_requests,
            job_seconds=account.job_deadline_seconds,
        ),
        proxy=account.proxy,
        organisation=account.organisation,
    )


@dataclass(frozen=True)
class VendorConnection:
    """How to reach one vendor account and log in to it.

    Attributes:
        config: The address, OAuth clients and limits.
        vendor: The vendor.
        account: The account's settings.
    """

    config: UpstreamConfig
    vendor: VendorSpec[Any]
    account: VendorAccount

    def open_client(self, redis: Redis, retries: RetryPolicy | None = None) -> httpx.AsyncClient:
        """Return an HTTP client of the vendor; the caller closes it.

        Args:
            redis: The connection for quota and shared tokens.
            retries: How often to retry; the account's policy by default.
        """
        from cache_pipeline.upstream.client import create_upstream_client

        config = self.config if retries is None else self.config.model_copy(update={"retries": retries})
        return create_upstream_client(
            config, redis, login_request=self.vendor.find_login_request(), discover=self.vendor.discover
        )


def connect_vendor(settings: Settings, account_id: str) -> VendorConnection:
    """Return the connection of an account in the settings.

    Args:
        settings: The settings of the deployment.
        account_id: Vendor and name of the account, such as ``vendor/main``.

    Raises:
        SettingsError: The account is wrong; the message names the environment variable.
    """
    name, _, account_name = account_id.partition("/")
    vendor, account = find_vendor(name), read_account(account_id, settings.accounts[name][account_name])
    return VendorConnection(_upstream_config(account_id, account, vendor), vendor, account)


def open_cookieless_client(settings: Settings, account_id: str, redis: Redis) -> httpx.AsyncClient:
    """Return an HTTP client of an account that keeps none of the vendor's cookies; the caller closes it."""
    client = connect_vendor(settings, account_id).open_client(redis)
    client.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    return client


async def _find_retention(redis: Redis, connection: VendorConnection, account: VendorAccount) -> timedelta | None:
    """Return how long a vendor keeps figures: as the settings declare it or, without that, as the vendor reported it."""
    from cache_pipeline.redis_errors import REDIS_ERRORS
    from cache_pipeline.upstream.fact_store import FactStore

    days = account.retention_days
    if days is None and connection.vendor.read_facts is not None:
        try:
            days = await FactStore(redis, connection.config.keys).retention_days()
        except REDIS_ERRORS as error:
            logger.warning("%s: its retention could not be read: %s", connection.config.account, error)
    return None if days is None else timedelta(days=days)


@asynccontextmanager
async def open_quotas(settings: Settings) -> AsyncGenerator[dict[str, tuple[QuotaPolicy, Quota]]]:
    """Open the shared quota of each account, with its policy, by vendor and name.

    Raises:
        SettingsError: No Redis URL is set, or an account is wrong.
    """
    from cache_pipeline.redis_connection import open_redis
    from cache_pipeline.upstream.client import create_upstream_quota

    async with open_redis(settings.required_redis_url()) as redis:
        configs = {account_id: connect_vendor(settings, account_id).config for account_id in account_ids(settings)}
        yield {name: (config.policy, create_upstream_quota(config, redis)) for name, config in configs.items()}


async def quota_headroom(settings: Settings, report: Report, lane: Lane) -> QuotaHeadroom | None:
    """Return what a lane may send now, over all clients of the report's account; None if it is not set.

    Raises:
        SettingsError: No Redis URL is set.
    """
    from cache_pipeline.service.planner import QuotaHeadroom

    async with open_quotas(settings) as quotas:
        if report.account_id not in quotas:
            return None
        policy, quota = quotas[report.account_id]
        return QuotaHeadroom.of(
            policy, await quota.snapshot(), lane, await quota.shared_limits(), await quota.allotment(utc_now())
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


@contextmanager
def open_stored_names(settings: Settings) -> Generator[Names]:
    """Open the stored names of the settings' tenant.

    Raises:
        SettingsError: No URL is set.
    """
    from cache_pipeline.service.names import Names
    from cache_pipeline.storage.postgres.names import open_names

    with open_names(settings.required_postgres_url()) as store:
        yield Names(store, settings.tenant)


@asynccontextmanager
async def open_hot_tier(settings: Settings) -> AsyncGenerator[HotTier]:
    """Open the hot tier alone, which takes a fraction of the time of the whole service.

    Raises:
        SettingsError: No Redis URL is set.
    """
    from cache_pipeline.redis_connection import open_redis
    from cache_pipeline.storage.redis.hot import RedisHotTier

    async with open_redis(settings.required_redis_url()) as redis:
        yield RedisHotTier(redis)


@asynccontextmanager
async def open_service(
    settings: Settings, on_stored: OnStored = ignore_stored, declared: Sequence[Report] = ()
) -> AsyncGenerator[ReportService]:
    """Open the report service with all its connections; they are closed at the end.

    Args:
        settings: The settings of the deployment.
        on_stored: Called with what was written to history.
        declared: Reports whose rows may be rolled up to answer what another report lacks.

    Raises:
        SettingsError: A URL is missing.
    """
    from cache_pipeline.redis_connection import open_redis
    from cache_pipeline.rows.arrow_memory import use_low_memory_allocator
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
    from cache_pipeline.upstream.polling import DurationStore, GuideSchedule, JobPoller, PollPolicy

    use_low_memory_allocator()
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(open_redis(settings.required_redis_url()))
        accounts = read_accounts(settings)
        adapters: dict[str, VendorAdapter] = {}
        job_pollers: dict[str, JobPoller] = {}
        retention: dict[str, timedelta] = {}
        clients: dict[str, httpx.AsyncClient] = {}
        for account_id, account in accounts.items():
            if account.is_insecure:
                logger.warning(
                    "%s: allow_insecure_http is set, so client secrets and access tokens go unencrypted", account_id
                )
            connection = connect_vendor(settings, account_id)
            client = await stack.enter_async_context(connection.open_client(redis))
            if kept := await _find_retention(redis, connection, account):
                retention[account_id] = kept
            clients[account_id] = client
            adapters[account_id] = connection.vendor.create_adapter(client, account)
            job_pollers[account_id] = JobPoller(
                PollPolicy(account.poll_policy),
                DurationStore(redis, account_id),
                GuideSchedule(),
                deadline_seconds=account.job_deadline_seconds,
            )
        hot, names = RedisHotTier(redis), stack.enter_context(open_names(settings.required_postgres_url()))
        single_flight = await stack.enter_async_context(RedisSingleFlight(redis))
        names_coalescer = await stack.enter_async_context(Coalescer[datetime, None]())
        live_coalescer = await stack.enter_async_context(Coalescer[Answer, None]())
        yield ReportService(
            accounts=adapters,
            history=stack.enter_context(
                open_history(settings.required_postgres_url(), settings.optional_postgres_read_url())
            ),
            hot=hot,
            ledger=stack.enter_context(open_ledger(settings.required_postgres_url())),
            single_flight=single_flight,
            coalescer=await stack.enter_async_context(Coalescer[Hit | Miss, ProgressEvent]()),
            names=names,
            live=LiveAnswers(clients, hot, names, single_flight, live_coalescer, utc_now),
            listings=ListedNames(clients, names, single_flight, names_coalescer, utc_now),
            clock=utc_now,
            tenant=settings.tenant,
            on_stored=on_stored,
            declared=declared,
            job_pollers=job_pollers,
            retention=retention,
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
        logs: Files and folders with logs, besides those of Dagster in the data folder.
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
                    StagedFiles(settings.data_dir / "staged"),
                    database,
                    PublishedPersonalData(edge, publish_again),
                    RedisPersonalData(redis),
                    LogFiles([settings.data_dir / "dagster", *logs]),
                ],
            )
        database.delete_salt()
    return receipt


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
