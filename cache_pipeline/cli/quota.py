"""``cache-pipeline quota``: every OAuth client of the pool, as all processes and machines share it."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table

from cache_pipeline.bootstrap.accounts import open_quotas
from cache_pipeline.bootstrap.clock import utc_now
from cache_pipeline.errors import CommandError
from cache_pipeline.query.lane import Lane
from cache_pipeline.settings import Settings, read_settings
from cache_pipeline.upstream.quota import Allotment, ClientQuota, QuotaPolicy, SharedLimit
from cache_pipeline.upstream.quota.quota import Quota

_STATE_COLOURS = {"available": "green", "throttled": "red", "refreshing": "yellow", "refused": "bold red"}


@dataclass(frozen=True)
class _AccountQuota:
    """The quota of one account at one moment: its clients, the limits beyond theirs, and the month's allotment."""

    policy: QuotaPolicy
    clients: list[ClientQuota]
    limits: list[SharedLimit]
    month: Allotment | None


Snapshot = Mapping[str, _AccountQuota]


async def _take_snapshot(quotas: Mapping[str, tuple[QuotaPolicy, Quota]]) -> Snapshot:
    return {
        name: _AccountQuota(
            policy, await quota.snapshot(), await quota.shared_limits(), await quota.allotment(utc_now())
        )
        for name, (policy, quota) in quotas.items()
    }


async def _snapshot(settings: Settings) -> Snapshot:
    async with open_quotas(settings) as quotas:
        return await _take_snapshot(quotas)


def _room(policy: QuotaPolicy, client: ClientQuota, lane: Lane) -> int:
    """Return how many requests a lane could send now with this client."""
    return 0 if client.throttled_for_s else max(0, policy.slots(lane) - client.used)


def _token_age(client: ClientQuota) -> str:
    """How old the shared access token is, of how long it lives."""
    if client.token_age_s is None or client.token_life_s is None:
        return "login refused" if client.login_refused else "none"
    return f"{client.token_age_s:,.0f} of {client.token_life_s:,.0f} s"


def _tables(snapshot: Snapshot) -> Group:
    parts: list[RenderableType] = [_table(snapshot)]
    if any(each.limits for each in snapshot.values()):
        parts.append(_limit_table(snapshot))
    parts += [f"{name}: {each.month.describe()}." for name, each in snapshot.items() if each.month is not None]
    return Group(*parts)


def _limit_table(snapshot: Snapshot) -> Table:
    table = Table(title="Limits that are declared, or that the vendor has named")
    for heading in ("account", "limit", "counts"):
        table.add_column(heading)
    table.add_column("used", justify="right")
    for account, each in snapshot.items():
        for limit in each.limits:
            window = "" if limit.window_seconds is None else f" in {limit.window_seconds:g} s"
            table.add_row(account, limit.name, limit.counts, f"{limit.used} of {limit.limit}{window}")
    return table


def _table(snapshot: Snapshot) -> Table:
    table = Table(title="Shared quota")
    table.add_column("account")
    table.add_column("OAuth client")
    table.add_column("state")
    for heading in (
        "used",
        "in flight",
        "interactive",
        "scheduled",
        "backfill",
        "next slot",
        "granted",
        "429",
        "token age",
    ):
        table.add_column(heading, justify="right")
    for account, each in snapshot.items():
        policy = each.policy
        for client in each.clients:
            colour = _STATE_COLOURS[client.state]
            table.add_row(
                account,
                client.client_id,
                f"[{colour}]{client.state}[/]",
                f"{client.used} of {policy.limit}",
                str(client.in_flight),
                *(str(_room(policy, client, lane)) for lane in Lane),
                f"{client.throttled_for_s:.1f} s" if client.throttled_for_s else "now",
                f"{client.granted_total:,}",
                f"{client.rejected_total:,}",
                _token_age(client),
            )
    return table


def _document(snapshot: Snapshot) -> str:
    return json.dumps(
        {
            account: {
                "clients": [
                    {**asdict(client), "room": {lane: _room(each.policy, client, lane) for lane in Lane}}
                    for client in each.clients
                ],
                "limits": [asdict(limit) for limit in each.limits],
                "month": each.month and each.month.as_document(),
            }
            for account, each in snapshot.items()
        },
        indent=1,
    )


def show_quota(settings: Settings, console: Console, *, as_json: bool, watch: bool) -> None:
    """Print the quota once, or refresh it until Ctrl-C.

    Raises:
        SettingsError: no Redis URL is set.
        CommandError: no vendor account is set.
    """
    if not settings.accounts:
        raise CommandError(
            "no vendor account is set: set CACHE_PIPELINE_ACCOUNTS__VENDOR__MAIN, with the vendor's name"
        )
    if as_json:
        click.echo(_document(asyncio.run(_snapshot(settings))))
        return
    if not watch:
        console.print(_tables(asyncio.run(_snapshot(settings))))
        return

    async def follow() -> None:
        async with open_quotas(settings) as quotas:
            with Live(console=console, auto_refresh=False) as live:
                while True:
                    live.update(_tables(await _take_snapshot(quotas)), refresh=True)
                    await asyncio.sleep(1)

    asyncio.run(follow())


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON once.")
@click.option("--watch", is_flag=True, help="Refresh until Ctrl-C.")
def quota(as_json: bool, watch: bool) -> None:  # noqa: FBT001 - click passes flags by name
    """Show the state of each OAuth client and how many requests each lane may send now."""
    show_quota(read_settings(), Console(), as_json=as_json, watch=watch)
