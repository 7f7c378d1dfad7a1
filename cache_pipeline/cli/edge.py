"""``cache-pipeline edge``: publish from history, maintain the published files, and open the page."""

import json
import re
import sys
import time
from datetime import timedelta
from pathlib import Path
from urllib.parse import unquote, urlsplit

import click
from rich.console import Console
from rich.table import Table

from cache_pipeline.bootstrap.clock import utc_now
from cache_pipeline.bootstrap.reports import load_reports, report_columns
from cache_pipeline.bootstrap.stores import open_edge_tier, open_stored_names, register_published
from cache_pipeline.cli.edge_server import serving_edge
from cache_pipeline.cli.files import write_atomically
from cache_pipeline.dashboard.single_file import single_file_page
from cache_pipeline.errors import CommandError
from cache_pipeline.query.declarations import find_report
from cache_pipeline.query.interval import Interval, format_instant
from cache_pipeline.query.report import Tier
from cache_pipeline.query.series import Series
from cache_pipeline.service.names import published_names
from cache_pipeline.service.republish import RepublishResult, republish, trailing_window
from cache_pipeline.settings import Settings, read_settings
from cache_pipeline.storage.postgres.history import open_history
from cache_pipeline.storage.published import EdgeTier
from cache_pipeline.storage.published.bundle import bundle_files
from cache_pipeline.storage.published.maintenance import (
    DEFAULT_RETENTION,
    DEFAULT_SNAPSHOT_COUNT,
    collect_garbage,
    rollback,
    snapshots,
    verify,
)
from cache_pipeline.storage.published.page import publish_page


@click.group()
def edge() -> None:
    """Manage the published data sets and the executives' page."""


@edge.command()
@click.argument("reports", nargs=-1)
@click.option(
    "--interval", help="start/end; times without an offset are in the report's time zone (default: the last 35 days)."
)
@click.option("--all", "everything", is_flag=True, help="Publish everything in history.")
@click.option("--page-only", is_flag=True, help="Publish only the page.")
def publish(reports: tuple[str, ...], interval: str | None, *, everything: bool, page_only: bool) -> None:
    """Publish the page, names, and REPORTS (default: all) from history. Unchanged files are not uploaded again."""
    if interval and everything:
        raise click.UsageError("--interval and --all exclude each other; leave one out")
    settings = read_settings()
    declared = load_reports(settings)
    selected = [find_report(declared, name) for name in reports] if reports else list(declared.values())
    intervals = {each.name: Interval.parse(interval, each.zone) if interval else None for each in selected}
    tier, names = open_edge_tier(settings), None
    if not page_only:
        with open_history(settings.required_postgres_url()) as history:
            for report in (each for each in selected if Tier.edge in each.publish.tiers):
                window = None if everything else intervals[report.name] or trailing_window(report, utc_now())
                result = republish(history, tier, Series(report, settings.tenant), report_columns(report), window)
                click.echo(_describe_result(report.name, result))
        with open_stored_names(settings) as stored:
            names = published_names(tier, declared, stored)
        register_published(settings, tier)
    uploaded = publish_page(tier.store, names)
    click.echo(f"page: {uploaded} objects uploaded; open {page_address(settings)}")


def _describe_result(name: str, result: RepublishResult) -> str:
    if result.snapshot is None:
        return f"{name}: history holds no rows; run a backfill first"
    return (
        f"{name}: {result.rows:,} rows in {result.files} files, {result.uploaded} uploaded; snapshot {result.snapshot}"
    )


@edge.command("verify")
def verify_command() -> None:
    """Compare every published file with the manifest. Exit with 1 if a file is missing or differs."""
    tier = open_edge_tier(read_settings())
    problems = verify(tier)
    for problem in problems:
        click.echo(problem)
    if problems:
        sys.exit(1)
    files = [file for dataset in tier.manifest().datasets.values() for file in dataset.files]
    size = sum(file.bytes for file in files)
    click.echo(f"all {len(files)} files match the manifest, {size:,} bytes")


@edge.command()
def register() -> None:
    """Register the published files in the Iceberg and DuckLake catalogues of the settings, as publishing does."""
    settings = read_settings()
    if settings.iceberg_catalog_url is None and settings.ducklake_catalog_url is None:
        raise CommandError(
            "no catalogue is set: set CACHE_PIPELINE_ICEBERG_CATALOG_URL or CACHE_PIPELINE_DUCKLAKE_CATALOG_URL to a database, such "
            "as sqlite:////data/catalog.db or duckdb:///data/lake.ducklake"
        )
    for each in register_published(settings, open_edge_tier(settings)):
        click.echo(f"{each.table}: {each.added} files added, {each.removed} removed; {each.location}")


@edge.command("rollback")
@click.argument("snapshot")
def rollback_command(snapshot: str) -> None:
    """Restore the manifest of SNAPSHOT (see `edge ls --snapshots`)."""
    settings = read_settings()
    tier = open_edge_tier(settings)
    uploaded = rollback(tier, snapshot)
    register_published(settings, tier)
    click.echo(f"rolled back to snapshot {snapshot}; the manifest is now snapshot {uploaded}")


def _days(_context: click.Context, _parameter: click.Parameter, text: str) -> timedelta:
    found = re.fullmatch(r"(\d{1,5})([dh])", text)
    if not found:
        raise click.BadParameter(f"{text!r} is not a duration; write 7d or 36h")
    return timedelta(**{{"d": "days", "h": "hours"}[found[2]]: int(found[1])})


@edge.command()
@click.option(
    "--keep-for",
    default=f"{DEFAULT_RETENTION.days}d",
    show_default=True,
    callback=_days,
    help="Keep what is younger than this, such as 7d or 36h.",
)
@click.option(
    "--keep-snapshots",
    default=DEFAULT_SNAPSHOT_COUNT,
    show_default=True,
    type=click.IntRange(1),
    help="Keep at least this many snapshots.",
)
@click.option(
    "--forget", is_flag=True, help="Delete everything not in the manifest at once, for figures that must be erased."
)
def gc(keep_for: timedelta, keep_snapshots: int, *, forget: bool) -> None:
    """Delete old snapshots, and files that no remaining snapshot uses."""
    settings = read_settings()
    tier = open_edge_tier(settings)
    result = collect_garbage(tier, keep_for, keep_snapshots, forget=forget)
    click.echo(
        f"{len(result.files)} files ({result.bytes:,} bytes) and {len(result.snapshots)} snapshots deleted; "
        f"{result.remaining_snapshots} snapshots remain for rollback"
    )
    if forget and result.files:
        click.echo("purge the CDN too; its caches may keep deleted files for a year")
    register_published(settings, tier)


@edge.command()
@click.option("--snapshots", "list_snapshots", is_flag=True, help="List snapshots instead of data sets.")
@click.option("--json", "as_json", is_flag=True, help="Print the manifest.")
def ls(*, list_snapshots: bool, as_json: bool) -> None:
    """List data sets, or the snapshots available for rollback."""
    tier, console = open_edge_tier(read_settings()), Console()
    if as_json:
        click.echo(json.dumps(tier.manifest().model_dump(mode="json"), indent=1))
    elif list_snapshots:
        for snapshot in snapshots(tier):
            click.echo(
                f"{snapshot.id}  {format_instant(snapshot.stored_at)}{'  current' if snapshot.is_current else ''}"
            )
    else:
        console.print(_table(tier))


def _table(tier: EdgeTier) -> Table:
    table = Table(title="Published")
    for heading in ("data set", "complete through", "provisional from", "files", "rows", "bytes"):
        table.add_column(heading, justify="left" if heading.startswith(("data", "complete", "prov")) else "right")
    for name, dataset in sorted(tier.manifest().datasets.items()):
        instants = (dataset.complete_through, dataset.provisional_from)
        table.add_row(
            name,
            *(format_instant(instant) if instant else "none" for instant in instants),
            f"{len(dataset.files):,}",
            f"{sum(file.rows for file in dataset.files):,}",
            f"{sum(file.bytes for file in dataset.files):,}",
        )
    return table


@edge.command()
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@click.option("--port", default=8080, show_default=True, help="Port on 127.0.0.1; 0 picks a free one.")
def serve(folder: Path | None, port: int) -> None:
    """Serve FOLDER (default: the edge store's) with a CDN's headers until Ctrl-C."""
    root = folder or edge_folder(read_settings())
    if root is None or not any(root.glob("v1/*/manifest.json")):
        raise CommandError(
            f"{root or 'the edge store'} is not a folder with v1/<tenant>/manifest.json; publish there, or give another folder"
        )
    with serving_edge(root, port) as url:
        click.echo(f"{url}/ serves {root}; Ctrl-C stops it", err=True)
        while True:
            time.sleep(3600)


@edge.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--newest", default="60d", show_default=True, callback=_days, help="How many of the latest days of each data set."
)
def save(file: Path, newest: timedelta) -> None:
    """Write the page with its data as one HTML FILE, to open locally or to send."""
    write_atomically(file, single_file_page(bundle_files(open_edge_tier(read_settings()), newest)))
    click.echo(f"{file.resolve().as_uri()} ({file.stat().st_size:,} bytes)")


def edge_folder(settings: Settings) -> Path | None:
    """Return the edge store's folder, or None if it is in a cloud."""
    address = urlsplit(settings.edge_store_url)
    return Path(unquote(address.path)) if address.scheme == "file" else None


def page_address(settings: Settings) -> str:
    """Return the address of the page in the store."""
    return f"{settings.edge_store_url.rstrip('/')}/v1/{settings.tenant}/index.html"
