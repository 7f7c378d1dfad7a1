"""``cache-pipeline keys``: create, list, rotate and revoke the keys of the HTTP API."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import TypeVar
from zoneinfo import ZoneInfo

import click
from rich import box
from rich.console import Console
from rich.table import Table

from cache_pipeline.bootstrap.clock import utc_now
from cache_pipeline.bootstrap.database import migrate_history
from cache_pipeline.bootstrap.reports import load_all_reports, load_reports
from cache_pipeline.errors import CommandError, InvalidInterval
from cache_pipeline.path_patterns import PathPattern
from cache_pipeline.query.declarations import find_report
from cache_pipeline.query.durations import Duration
from cache_pipeline.query.interval import format_instant, parse_instant
from cache_pipeline.query.lane import Lane
from cache_pipeline.settings import Settings, read_settings
from cache_pipeline.storage.ports.api_keys import ApiKeyInfo, Principal
from cache_pipeline.storage.postgres.api_keys import PostgresApiKeyStore
from cache_pipeline.storage.postgres.async_pool import connection_pool

T = TypeVar("T")

_ID_LENGTH = 12
_UTC = ZoneInfo("UTC")


def _with_keys(settings: Settings, use: Callable[[PostgresApiKeyStore], Awaitable[T]]) -> T:
    async def run() -> T:
        async with connection_pool(settings.required_postgres_url(), 1) as pool:
            return await use(PostgresApiKeyStore(pool))

    migrate_history(settings, load_reports(settings))
    return asyncio.run(run())


@click.group()
def keys() -> None:
    """Manage the keys of the HTTP API."""


class _Expiry(click.ParamType[datetime]):
    """A time in the future: how long from now, or until when."""

    name = "TIME"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        now = utc_now()
        try:
            at = Duration.parse(value).add_to(now, _UTC) if value.startswith("P") else parse_instant(value, _UTC)
        except InvalidInterval as error:
            self.fail(str(error), param, ctx)
        if at <= now:
            self.fail(f"{format_instant(at)} has passed: write a later time, or a duration such as P90D", param, ctx)
        return at


class _Pattern(click.ParamType[PathPattern]):
    """A method and a pattern of paths."""

    name = "PATTERN"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> PathPattern:
        try:
            return PathPattern.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class _Overlap(click.ParamType[timedelta]):
    """A length of time, which may be zero."""

    name = "DURATION"

    def convert(self, value: str | timedelta, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        if isinstance(value, timedelta):
            return value
        now = utc_now()
        try:
            return Duration.parse(value).add_to(now, _UTC) - now if value != "PT0S" else timedelta(0)
        except InvalidInterval as error:
            self.fail(str(error), param, ctx)


_expires_option = click.option(
    "--expires",
    "expires_at",
    type=_Expiry(),
    help="When the key stops working: a duration such as P90D, or a date or time.",
)


@keys.command()
@click.argument("name")
@click.option("--tenant", help="Tenant whose data the key may read (default: the deployment's).")
@click.option(
    "--report",
    "reports",
    multiple=True,
    help="Report that the key may read; repeat the option for more (default: all).",
)
@click.option(
    "--lane",
    type=click.Choice([str(lane) for lane in Lane]),
    default="interactive",
    show_default=True,
    help="Priority lane of its requests.",
)
@click.option(
    "--query",
    "queries",
    multiple=True,
    help="Query type that the key may ask for, such as conversations; repeat the option for more (default: all).",
)
@click.option(
    "--path",
    "paths",
    multiple=True,
    type=_Pattern(),
    help="Method and path that the key may use, such as 'GET /v1/reports/*'; * is one part of a path, ** at the end any number of "
    "them. Repeat the option for more (default: all).",
)
@click.option(
    "--division",
    "divisions",
    multiple=True,
    help="Id of a vendor's division whose figures the key sees; repeat the option for more (default: all).",
)
@click.option("--requests-per-minute", type=click.IntRange(min=1), help="Rate limit of the key (default: the API's).")
@click.option("--may-refresh", is_flag=True, help="Allow Cache-Control: no-cache, which refetches from the vendor.")
@_expires_option
@click.option("--operator", is_flag=True, help="Allow /operations and /v1/status, which show the whole deployment.")
def create(
    name: str,
    tenant: str | None,
    reports: tuple[str, ...],
    lane: str,
    queries: tuple[str, ...],
    paths: tuple[PathPattern, ...],
    divisions: tuple[str, ...],
    requests_per_minute: int | None,
    expires_at: datetime | None,
    may_refresh: bool,  # noqa: FBT001 - click passes flags by name
    operator: bool,  # noqa: FBT001
) -> None:
    """Create a key and print it. It cannot be shown again: only its hash is stored."""
    settings = read_settings()
    declared, live = load_all_reports(settings)
    for report in reports:
        find_report({**declared, **live}, report)
    principal = Principal(
        id="",
        tenant=tenant or settings.tenant,
        reports=frozenset(reports) or None,
        lane=Lane(lane),
        requests_per_minute=requests_per_minute,
        may_refresh=may_refresh,
        is_operator=operator,
        queries=frozenset(queries) or None,
        paths=paths or None,
        divisions=frozenset(divisions) or None,
    )
    click.echo(_with_keys(settings, lambda store: store.create(name, principal, expires_at)))


@keys.command("list")
def list_keys() -> None:
    """List the keys, without the keys themselves."""
    table = Table(title="API keys", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in (
        "id",
        "name",
        "tenant",
        "reports",
        "queries",
        "paths",
        "divisions",
        "lane",
        "per minute",
        "refresh",
        "operator",
        "created",
        "expires",
        "revoked",
    ):
        # Never shortened, whatever the terminal's width: `revoke` takes the whole id.
        table.add_column(heading, no_wrap=heading == "id", min_width=_ID_LENGTH if heading == "id" else None)
    now = utc_now()
    for key in _with_keys(read_settings(), lambda store: store.all()):
        table.add_row(*_cells(key, now))
    Console().print(table)


def _cells(key: ApiKeyInfo, now: datetime) -> tuple[str, ...]:
    expires = f"{key.expires_at:%Y-%m-%d %H:%M}" if key.expires_at else "never"
    return (
        key.id,
        key.name,
        key.tenant,
        _names_or_all(key.reports),
        _names_or_all(key.queries),
        _names_or_all(key.paths),
        _names_or_all(key.divisions),
        key.lane,
        str(key.requests_per_minute or "default"),
        "yes" if key.may_refresh else "no",
        "yes" if key.is_operator else "no",
        f"{key.created_at:%Y-%m-%d %H:%M}",
        f"{expires} (expired)" if key.has_expired(now) else expires,
        f"{key.revoked_at:%Y-%m-%d %H:%M}" if key.revoked_at else "",
    )


def _names_or_all(names: tuple[str, ...] | None) -> str:
    return "all" if names is None else ", ".join(names)


@keys.command()
@click.argument("key_id", metavar="ID")
@click.option(
    "--overlap",
    type=_Overlap(),
    default="P1D",
    show_default=True,
    help="How long the old key still works; PT0S to end it within five seconds.",
)
@_expires_option
def rotate(key_id: str, overlap: timedelta, expires_at: datetime | None) -> None:
    """Replace the key with this ID by a new one that permits the same, and print the new key.

    Without --expires the new key works for as long as the old one was created for.
    """
    created = _with_keys(read_settings(), lambda store: store.rotate(key_id, overlap, expires_at))
    if created is None:
        raise _no_such_key(key_id)
    click.echo(created)


@keys.command()
@click.argument("key_id", metavar="ID")
def revoke(key_id: str) -> None:
    """Revoke the key with this ID. It takes effect everywhere within five seconds."""
    if not _with_keys(read_settings(), lambda store: store.revoke(key_id)):
        raise _no_such_key(key_id)
    click.echo(f"key {key_id} revoked")


def _no_such_key(key_id: str) -> CommandError:
    return CommandError(f"no active key {key_id}; `cache-pipeline keys list` shows the keys")
