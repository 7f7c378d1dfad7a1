"""``cache-pipeline keys``: create, list and revoke the keys of the HTTP API."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import click
from rich import box
from rich.console import Console
from rich.table import Table

from cache_pipeline.bootstrap import load_live_reports, load_reports, migrate_history
from cache_pipeline.errors import CommandError
from cache_pipeline.query.declarations import find_report
from cache_pipeline.query.lane import Lane
from cache_pipeline.settings import Settings, read_settings
from cache_pipeline.storage.api_key import ApiKeyInfo, Principal
from cache_pipeline.storage.postgres.api_keys import PostgresApiKeyStore
from cache_pipeline.storage.postgres.async_pool import connection_pool

T = TypeVar("T")

_ID_LENGTH = 12


def _with_keys(settings: Settings, use: Callable[[PostgresApiKeyStore], Awaitable[T]]) -> T:
    async def run() -> T:
        async with connection_pool(settings.required_postgres_url(), 1) as pool:
            return await use(PostgresApiKeyStore(pool))

    migrate_history(settings, load_reports(settings))
    return asyncio.run(run())


@click.group()
def keys() -> None:
    """Manage the keys of the HTTP API."""


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
@click.option("--requests-per-minute", type=click.IntRange(min=1), help="Rate limit of the key (default: the API's).")
@click.option("--may-refresh", is_flag=True, help="Allow Cache-Control: no-cache, which refetches from the vendor.")
@click.option("--operator", is_flag=True, help="Allow /operations and /v1/status, which show the whole deployment.")
def create(
    name: str,
    tenant: str | None,
    reports: tuple[str, ...],
    lane: str,
    requests_per_minute: int | None,
    may_refresh: bool,  # noqa: FBT001 - click passes flags by name
    operator: bool,  # noqa: FBT001
) -> None:
    """Create a key and print it. It cannot be shown again: only its hash is stored."""
    settings = read_settings()
    declared = {**load_reports(settings), **load_live_reports(settings)}
    for report in reports:
        find_report(declared, report)
    principal = Principal(
        id="",
        tenant=tenant or settings.tenant,
        reports=frozenset(reports) or None,
        lane=Lane(lane),
        requests_per_minute=requests_per_minute,
        may_refresh=may_refresh,
        is_operator=operator,
    )
    click.echo(_with_keys(settings, lambda store: store.create(name, principal)))


@keys.command("list")
def list_keys() -> None:
    """List the keys, without the keys themselves."""
    table = Table(title="API keys", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in (
        "id",
        "name",
        "tenant",
        "reports",
        "lane",
        "per minute",
        "refresh",
        "operator",
        "created",
        "revoked",
    ):
        # Never shortened, whatever the terminal's width: `revoke` takes the whole id.
        table.add_column(heading, no_wrap=heading == "id", min_width=_ID_LENGTH if heading == "id" else None)
    for key in _with_keys(read_settings(), lambda store: store.all()):
        table.add_row(*_cells(key))
    Console().print(table)


def _cells(key: ApiKeyInfo) -> tuple[str, ...]:
    return (
        key.id,
        key.name,
        key.tenant,
        ", ".join(key.reports) if key.reports is not None else "all",
        key.lane,
        str(key.requests_per_minute or "default"),
        "yes" if key.may_refresh else "no",
        "yes" if key.is_operator else "no",
        f"{key.created_at:%Y-%m-%d %H:%M}",
        f"{key.revoked_at:%Y-%m-%d %H:%M}" if key.revoked_at else "",
    )


@keys.command()
@click.argument("key_id", metavar="ID")
def revoke(key_id: str) -> None:
    """Revoke the key with this ID. It takes effect everywhere within five seconds."""
    if not _with_keys(read_settings(), lambda store: store.revoke(key_id)):
        raise CommandError(f"no active key {key_id}; `cache-pipeline keys list` shows the keys")
    click.echo(f"key {key_id} revoked")
