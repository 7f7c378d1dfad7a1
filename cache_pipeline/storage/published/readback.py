"""Read the public URL back, to check that readers get through the CDN what was published."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import obstore
from obstore.exceptions import BaseError

from cache_pipeline.errors import EdgeStoreError, first_line
from cache_pipeline.storage.published.edge_tier import MANIFEST, EdgeTier, snapshot_of
from cache_pipeline.storage.published.manifest import Manifest, UnreadableManifest
from cache_pipeline.storage.published.object_store import reading_store

#: max-age plus stale-while-revalidate of the manifest: a CDN may be this far behind.
DEFAULT_GRACE = timedelta(seconds=660)


@dataclass(frozen=True)
class ReadBackResult:
    """What the store holds, and what the public URL serves.

    Attributes:
        published: Snapshot id of the store's manifest.
        served: Snapshot id of the manifest at the public URL, or None if none can be read there.
        published_at: When the store's manifest was generated.
        served_at: When the served manifest was generated, or None.
        problem: The problem and its remedy; empty if there is none.
    """

    published: str
    served: str | None
    published_at: datetime
    served_at: datetime | None
    problem: str = ""

    @property
    def is_current(self) -> bool:
        """Whether readers get the latest publication."""
        return self.published == self.served


def read_back(edge: EdgeTier, public_url: str, now: datetime, grace: timedelta = DEFAULT_GRACE) -> ReadBackResult:
    """Compare the store's manifest with the one that the public URL serves.

    Args:
        edge: The published files.
        public_url: The URL of the folder with ``manifest.json``, through the CDN.
        now: The current time.
        grace: How long the CDN may serve the previous manifest.

    Raises:
        EdgeStoreError: The store's own manifest cannot be read, or the URL is invalid.
    """
    manifest = edge.manifest()
    published = snapshot_of(manifest)[0]
    unreadable = ReadBackResult(published, None, manifest.generated_at, None)
    try:
        served = Manifest.parse(bytes(obstore.get(reading_store(public_url), MANIFEST).bytes()))
    except (BaseError, OSError) as error:
        return _with_problem(
            unreadable, f"{public_url} cannot be read: {first_line(error)}: check the CDN's origin and access rules"
        )
    except UnreadableManifest as error:
        return _with_problem(
            unreadable, f"{public_url} serves no readable manifest ({error}): check the CDN's origin path"
        )
    result = ReadBackResult(published, snapshot_of(served)[0], manifest.generated_at, served.generated_at)
    if not result.is_current and now - manifest.generated_at > grace:
        return _with_problem(
            result,
            f"{public_url} serves snapshot {result.served} of {served.generated_at}, and {published} was published at "
            f"{manifest.generated_at}: the CDN must honour the manifest's Cache-Control (max-age=60); purge manifest.json",
        )
    return result


def _with_problem(result: ReadBackResult, problem: str) -> ReadBackResult:
    return replace(result, problem=problem)


def require_public_url(url: str | None) -> str:
    """Return the public URL.

    Raises:
        EdgeStoreError: It is not set.
    """
    if not url:
        raise EdgeStoreError(
            "CACHE_PIPELINE_EDGE_PUBLIC_URL is not set: set it to the URL that readers use, including the tenant's folder "
            "(https://figures.example.com/v1/default)"
        )
    return url
