"""Access to a static store: create-only puts, compare-and-swap of one object, listing and deleting.

Folders, S3, Azure and Google Cloud Storage behave alike here. Headers are set if the store keeps them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import obstore
from filelock import FileLock
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import HTTPStore, LocalStore, ObjectStore, from_url

from cache_pipeline.errors import EdgeStoreError, first_line

#: Content-hashed objects never change (RFC 8246); the few mutable ones are served stale while or instead of refreshing
#: (RFC 5861).
IMMUTABLE = "public, max-age=31536000, immutable"
SHORT_LIVED = "public, max-age=60, stale-while-revalidate=600, stale-if-error=86400"
REVALIDATED = "no-cache"
CONTENT_TYPES = {
    ".parquet": "application/vnd.apache.parquet",
    ".json": "application/json",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
}
_RETRIES: Any = {"max_retries": 3, "retry_timeout": timedelta(seconds=30)}


@dataclass(frozen=True)
class StoredObject:
    """One object of a listing; ``modified_at`` is by the store's own clock."""

    path: str
    bytes: int
    modified_at: datetime


def cache_control(path: str) -> str:
    """Return the Cache-Control header that an object is served with."""
    if path.startswith(("data/", "snapshots/", "assets/")):
        return IMMUTABLE
    return REVALIDATED if path.endswith(".html") else SHORT_LIVED


def content_type(path: str) -> str:
    """Return the media type that an object is served with."""
    return CONTENT_TYPES.get(Path(path).suffix, "application/octet-stream")


def _remedy(url: str, error: Exception) -> str:
    text = str(error)
    forbidden = isinstance(error, PermissionDeniedError | UnauthenticatedError | PermissionError)
    if forbidden or "ermission denied" in text:
        if url.startswith("file://"):
            return f"let the user of this process (id {os.geteuid()}) read and write that folder and everything in it"
        return "give the credentials the right to read, write, list and delete below that prefix"
    if "No space left" in text or "os error 28" in text or "File too large" in text:
        return "free some space, then publish again; the former publication is intact"
    if isinstance(error, FileNotFoundError):
        return "check that the bucket or folder exists"
    return "check CACHE_PIPELINE_EDGE_URL and that the store can be reached, then publish again"


def describe_error(url: str, action: str, error: Exception, remedy: str | None = None) -> EdgeStoreError:
    """Return a store's error as ours: the store, the action, the cause and the remedy in one line.

    Without a remedy, it is that for a publisher.
    """
    return EdgeStoreError(f"edge store {url}: {action}: {first_line(error)}: {remedy or _remedy(url, error)}")


class EdgeStore:
    """The objects of one tenant, below ``v1/<tenant>/`` of a store.

    Attributes:
        url: The URL as given.
    """

    def __init__(self, url: str, tenant: str = "default") -> None:
        """Open the store for publishing.

        Raises:
            EdgeStoreError: The URL is not of a supported kind, or the folder cannot be written.
        """
        self.url = url
        self._lock: FileLock | None = None
        try:
            if url.startswith("file://"):
                folder = _folder(url) / "v1" / tenant
                folder.mkdir(parents=True, exist_ok=True)
                self._store: ObjectStore = LocalStore(folder)
                # A folder has no compare-and-swap, so its publishers take turns. The lock file is outside the served folder.
                self._lock = FileLock(folder.parent.parent / f".{tenant}.lock")
            else:
                self._store = from_url(f"{url.rstrip('/')}/v1/{tenant}", retry_config=_RETRIES)
        except (BaseError, OSError, ValueError) as error:
            raise EdgeStoreError(
                f"edge store {url} cannot be opened: {first_line(error)}: {_remedy(url, error)}"
            ) from error

    @contextmanager
    def publisher_lock(self) -> Generator[None]:
        """Lock a folder for one publisher; other stores need no lock."""
        if self._lock is None:
            yield
        else:
            with self._lock:
                yield

    @contextmanager
    def translated_errors(self, action: str) -> Generator[None]:
        """Raise the store's own errors as ours.

        Args:
            action: What the block does, for the message ("reading manifest.json").

        Raises:
            EdgeStoreError: The store failed; the message names the store, the action and the remedy.
        """
        try:
            yield
        except (BaseError, OSError) as error:
            raise describe_error(self.url, action, error) from error

    def get(self, path: str) -> tuple[bytes, str | None] | None:
        """Return an object's bytes and version, or None if it does not exist."""
        try:
            found = obstore.get(self._store, path)
            return bytes(found.bytes()), found.meta["e_tag"]
        except (FileNotFoundError, NotADirectoryError):
            return None

    def modified_at(self, path: str) -> datetime | None:
        """Return when an object was stored, by the store's own clock, or None if it does not exist."""
        try:
            return obstore.head(self._store, path)["last_modified"]
        except (FileNotFoundError, NotADirectoryError):
            return None

    def create(self, path: str, body: bytes) -> bool:
        """Put an object unless it exists; return whether it was put."""
        try:
            obstore.put(self._store, path, body, mode="create", attributes=self._headers(path))
        except (AlreadyExistsError, PreconditionError, FileExistsError):
            return False
        return True

    def put(self, path: str, body: bytes) -> None:
        """Put an object, replacing any former one."""
        obstore.put(self._store, path, body, attributes=self._headers(path))

    def swap(self, path: str, body: bytes, version: str | None) -> bool:
        """Replace the object of a version; return False if it has changed since."""
        try:
            if self._lock is not None:
                obstore.put(self._store, path, body)
            elif version is None:
                obstore.put(self._store, path, body, mode="create", attributes=self._headers(path))
            else:
                obstore.put(self._store, path, body, mode={"e_tag": version}, attributes=self._headers(path))
        except (AlreadyExistsError, PreconditionError, FileExistsError):
            return False
        return True

    def list(self, prefix: str) -> list[StoredObject]:
        """List all objects below a prefix."""
        return [
            StoredObject(item["path"], item["size"], item["last_modified"])
            for page in obstore.list(self._store, prefix)
            for item in page
        ]

    def delete(self, paths: Iterable[str]) -> None:
        """Delete objects; those that do not exist are skipped."""
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                obstore.delete(self._store, path)

    def _headers(self, path: str) -> dict[str, str] | None:
        # A folder stores no headers; its web server sets them.
        return None if self._lock else {"Cache-Control": cache_control(path), "Content-Type": content_type(path)}


def _folder(url: str) -> Path:
    return Path(unquote(urlsplit(url).path))


def reading_store(url: str) -> ObjectStore:
    """Open a store for reading published files: the folder that contains ``manifest.json``.

    Args:
        url: ``https://…``, ``http://…``, ``file:///…``, ``s3://…``, ``gs://…`` or ``az://…``, with or without
            ``manifest.json`` or ``index.html`` at its end.

    Raises:
        EdgeStoreError: The URL is not of a supported kind.
    """
    base = url.removesuffix("/").removesuffix("/manifest.json").removesuffix("/index.html")
    try:
        if base.startswith("file://"):
            return LocalStore(_folder(base))
        if base.startswith(("http://", "https://")):
            return HTTPStore.from_url(base, retry_config=_RETRIES, client_options={"allow_http": True})
        return from_url(base, retry_config=_RETRIES)
    except (BaseError, OSError, ValueError) as error:
        raise EdgeStoreError(
            f"{url} cannot be read: {first_line(error)}: give the URL of the folder with manifest.json"
        ) from error
