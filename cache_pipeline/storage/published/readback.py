"""Reading the public URL back: whether what readers get through the CDN is what was published."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import obstore
from obstore.exceptions import BaseError

from cache_pipeline.errors import EdgeStoreError
from cache_pipeline.storage.published.edge_tier import MANIFEST, EdgeTier, snapshot_of
from cache_pipeline.storage.published.manifest import Manifest, UnreadableManifest
from cache_pipeline.storage.published.object_store import first_line, reading_store

#: max-age and stale-while-revalidate of the manifest: an edge may rightly be this far behind.
GRACE = timedelta(seconds=660)


@dataclass(frozen=True)
class ReadBackResult:
    """What the store holds, and what the public URL serves.

    Attributes:
        published: snapshot id of the store's manifest.
        served: of the one behind the public URL, or None where nothing readable is served.
        published_at: when the store's manifest was generated.
        served_at: when the served one was.
        problem: what is wrong and how to mend it; empty while all is well.
    """

    published: str
    served: str | None
    published_at: datetime
    served_at: datetime | None
    problem: str = ""

    @property
    def agrees(self) -> bool:
        """Whether readers get what was published last."""
        return self.published == self.served


def read_back(edge: EdgeTier, public_url: str, now: datetime, grace: timedelta = GRACE) -> ReadBackResult:
    """Compare the store's manifest with the one that the public URL serves.

    Args:
        edge: what was published.
        public_url: of the folder with ``manifest.json``, through the CDN.
        now: the time.
        grace: how long the edge may serve the one before.

    Raises:
        EdgeStoreError: the store's own manifest cannot be read, or the URL is none.
    """
    standing = edge.manifest()
    published = snapshot_of(standing)[0]
    told = ReadBackResult(published, None, standing.generated_at, None)
    try:
        served = Manifest.parse(bytes(obstore.get(reading_store(public_url), MANIFEST).bytes()))
    except (BaseError, OSError) as error:
        return _with(told, f"{public_url} cannot be read: {first_line(error)}: check the CDN's origin and access rules")
    except UnreadableManifest as error:
        return _with(told, f"{public_url} serves no manifest ({error}): check the CDN's origin path")
    found = ReadBackResult(published, snapshot_of(served)[0], standing.generated_at, served.generated_at)
    if not found.agrees and now - standing.generated_at > grace:
        return _with(
            found,
            f"{public_url} serves snapshot {found.served} of {served.generated_at}, and {published} was published at "
            f"{standing.generated_at}: the CDN must honour the manifest's Cache-Control (max-age=60); purge manifest.json",
        )
    return found


def _with(found: ReadBackResult, problem: str) -> ReadBackResult:
    return ReadBackResult(found.published, found.served, found.published_at, found.served_at, problem)


def require_public_url(url: str | None) -> str:
    """The public URL.

    Raises:
        EdgeStoreError: none is set.
    """
    if not url:
        raise EdgeStoreError(
            "CACHE_PIPELINE_EDGE_PUBLIC_URL is not set: give the URL that readers use, down to the tenant's folder "
            "(https://figures.example.com/v1/default)"
        )
    return url
