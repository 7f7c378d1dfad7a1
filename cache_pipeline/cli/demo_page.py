"""The executives' page of a demo: published with the names of the queues, and written as one file."""

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from cache_pipeline.account_upkeep import refresh_needed_names
from cache_pipeline.bootstrap.reports import load_reports
from cache_pipeline.bootstrap.stores import open_edge_tier, open_stored_names
from cache_pipeline.cli.edge import edge_folder
from cache_pipeline.cli.edge_server import serving_edge
from cache_pipeline.cli.files import write_atomically
from cache_pipeline.dashboard.single_file import single_file_page
from cache_pipeline.service.names import published_names
from cache_pipeline.settings import Settings
from cache_pipeline.storage.published.bundle import bundle_files
from cache_pipeline.storage.published.page import publish_page


def write_page(settings: Settings) -> Path | None:
    """Publish the page, and write it with its data as ``executives.html``.

    Returns:
        That file, or None where nothing was published.

    Raises:
        CommandError: the folder cannot be written.
        EdgeStoreError: the store refused.
    """
    edge = open_edge_tier(settings)
    if not edge.manifest().datasets:
        return None
    reports = load_reports(settings)
    asyncio.run(refresh_needed_names(settings, reports))
    with open_stored_names(settings) as stored:
        publish_page(edge.store, published_names(edge, reports, stored))
    return write_atomically(settings.data_dir / "executives.html", single_file_page(bundle_files(edge)))


@contextmanager
def serving_page(settings: Settings) -> Generator[str | None]:
    """Serve the page on a free port while the block lasts; None where the store is no folder."""
    folder = edge_folder(settings)
    if folder is None:
        yield None
        return
    with serving_edge(folder) as url:
        yield f"{url}/v1/{settings.tenant}/"
