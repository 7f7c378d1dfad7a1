"""``cache-pipeline forget``: remove or pseudonymise every trace of a person."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import click
from rich import box
from rich.console import Console
from rich.table import Table

from cache_pipeline.bootstrap.database import migrate_history
from cache_pipeline.bootstrap.reports import load_reports
from cache_pipeline.bootstrap.services import forget
from cache_pipeline.followed_deletions import follow_deletions
from cache_pipeline.service.forget import REMOVED_BY_TIME, FollowedDeletion, Receipt
from cache_pipeline.settings import read_settings


@click.command("forget")
@click.argument("identifier", metavar="USER_ID|ADDRESS", required=False)
@click.option(
    "--from-vendor",
    is_flag=True,
    help="Forget instead everyone whose data a vendor has deleted on request since the last time.",
)
@click.option(
    "--pseudonymise",
    is_flag=True,
    help="Keep rows, so that totals stay, and put a pseudonym in place of the id, instead of removing them.",
)
@click.option(
    "--logs",
    multiple=True,
    type=click.Path(path_type=Path, exists=True),
    metavar="PATH",
    help="Files or folders with logs to search too; may be repeated.",
)
@click.option("--format", "format_name", type=click.Choice(["table", "json"]), help="Default: a table on a terminal.")
def forget_command(
    *, identifier: str | None, from_vendor: bool, pseudonymise: bool, logs: tuple[Path, ...], format_name: str | None
) -> None:
    """Forget a person in every store, and print a receipt.

    Write - to read the id from standard input, so that it is in no list of processes and no shell's history. The exit code is 1 if
    something still names the person.
    """
    from cache_pipeline.orchestration.dagster_compat import instance_tables

    if (identifier is None) != from_vendor:
        raise click.UsageError("give an id or address, or --from-vendor")
    settings = read_settings()
    text = sys.stdin.readline().strip() if identifier == "-" else identifier
    declared = load_reports(settings)
    migrate_history(settings, declared)
    as_json = format_name == "json" or (format_name is None and not sys.stdout.isatty())
    tables = instance_tables()
    if text is None:
        following = follow_deletions(settings, declared, pseudonymise=pseudonymise, logs=logs, dagster_tables=tables)
        is_complete = asyncio.run(_follow(following, as_json=as_json))
    else:
        receipt = asyncio.run(
            forget(settings, declared, text, pseudonymise=pseudonymise, logs=logs, dagster_tables=tables)
        )
        is_complete = receipt.is_complete
        if as_json:
            click.echo(json.dumps(receipt.as_document(), indent=1))
        else:
            _print_table(receipt)
    sys.exit(0 if is_complete else 1)


async def _follow(following: AsyncIterator[FollowedDeletion], *, as_json: bool) -> bool:
    """Print what is done for each request, JSON as one document a line; return whether nothing names any of them."""
    is_complete, count = True, 0
    async for each in following:
        is_complete, count = is_complete and each.is_complete, count + 1
        if as_json:
            click.echo(json.dumps(each.as_document()))
            continue
        click.echo(f"{each.account}: request {each.request}")
        for receipt in each.receipts:
            _print_table(receipt)
        if each.skipped:
            click.echo(f"{each.skipped} of its ids and addresses are too short or too long to be searched for.")
    if not count and not as_json:
        click.echo("The vendors have fulfilled no request that was not followed before.")
    return is_complete


def _print_table(receipt: Receipt) -> None:
    console = Console()
    if not receipt.erasures:
        console.print("Nothing stored names this person.")
        return
    table = Table(title="Receipt", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("store", "place", "removed", "replaced", "left", "note"):
        table.add_column(
            heading, justify="right" if heading in ("removed", "replaced", "left") else "left", overflow="fold"
        )
    for each in receipt.erasures:
        table.add_row(
            each.store, each.place, *(f"{count:,}" for count in (each.removed, each.replaced, each.left)), each.note
        )
    console.print(table)
    if receipt.pseudonym:
        console.print(f"In rows the person is now {receipt.pseudonym}.")
    console.print("Only time removes:", *(f"- {line}" for line in REMOVED_BY_TIME), sep="\n", highlight=False)
