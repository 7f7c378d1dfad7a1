"""Opens the warehouse that a URL names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

from cache_pipeline.query.series import tenant_schema
from cache_pipeline.storage.warehouse.base import Warehouse, WarehouseRefused
from cache_pipeline.storage.warehouse.databases import Database, DatabaseWarehouse
from cache_pipeline.storage.warehouse.files import FileWarehouse

#: The option of every URL that names the schema, or folder, of the tables.
_DATASET = "dataset"
_FILE_SCHEMES = ("file", "s3", "gs", "az")


def open_warehouse(url: str, data_dir: Path) -> Warehouse:
    """Return the warehouse that a URL names. It is connected to when it is first used.

    Args:
        url: The URL, with credentials if the warehouse needs any.
        data_dir: The folder for files that exist only during an export.

    Raises:
        WarehouseRefused: The URL is of no supported kind, or incomplete; the message contains nothing secret of it.
    """
    parts = _split(url)
    if parts.scheme in _FILE_SCHEMES:
        if "@" in parts.netloc:
            raise WarehouseRefused(
                f"{parts.scheme}:// takes no user and password: credentials of file stores come from the environment"
            )
        return FileWarehouse(_without_options(parts), data_dir / "warehouse")
    return DatabaseWarehouse(read_database(url), data_dir / "warehouse")


def read_database(url: str) -> Database:
    """Return the database that a URL names.

    Raises:
        WarehouseRefused: The URL is of no supported kind, or incomplete; the message contains nothing secret of it.
    """
    parts = _split(url)
    read = _DATABASES.get(parts.scheme)
    if read is None:
        raise WarehouseRefused(
            f"{parts.scheme or 'a URL without a scheme'!r} is no kind of warehouse: expected one of "
            f"{', '.join(f'{scheme}://' for scheme in sorted((*_DATABASES, *_FILE_SCHEMES)))}"
        )
    return read(parts)


def dataset_name(url: str, tenant: str) -> str:
    """Return the schema, or folder, that a tenant's tables are in: the URL's ``dataset``, or one named after the tenant.

    Raises:
        WarehouseRefused: The URL cannot be parsed.
    """
    return _options(_split(url)).get(_DATASET) or tenant_schema("cache_pipeline", tenant)


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        # The error quotes the part that it cannot parse, which may be the password.
        raise WarehouseRefused(
            "the warehouse's URL cannot be parsed: percent-encode special characters in user and password"
        ) from None
    return parts


def _options(parts: SplitResult) -> dict[str, str]:
    return dict(parse_qsl(parts.query))


def _without_options(parts: SplitResult) -> str:
    return parts._replace(query="", fragment="").geturl()


def _safe_name(parts: SplitResult) -> str:
    """Return a URL without user, password and options."""
    host = (parts.hostname or "") + (f":{parts.port}" if parts.port else "")
    return f"{parts.scheme}://{host}{parts.path}"


def _server(kind: str) -> Callable[[SplitResult], Database]:
    """Return a reader of URLs with host, user and password, which dlt takes as they are."""

    def read(parts: SplitResult) -> Database:
        if not parts.hostname or not parts.path.strip("/"):
            raise WarehouseRefused(
                f"{parts.scheme}:// needs a server and a database: {parts.scheme}://user:password@host/database"
            )
        options = {name: value for name, value in _options(parts).items() if name != _DATASET}
        scheme = "postgresql" if kind == "postgres" else kind
        credentials = parts._replace(scheme=scheme, query=urlencode(options), fragment="").geturl()
        # Which options are secret, such as a private key's passphrase, differs by database.
        secrets = {secret for secret in (parts.password, unquote(parts.password or ""), *options.values()) if secret}
        return Database(kind, _safe_name(parts), {"credentials": credentials}, frozenset(secrets))

    return read


def _duckdb(parts: SplitResult) -> Database:
    path = unquote(f"{parts.netloc}{parts.path}")
    if not path.strip("/"):
        raise WarehouseRefused("duckdb:// needs a file: duckdb:///folder/file.duckdb, or duckdb://file.duckdb")
    resolved = Path(path).resolve()
    return Database("duckdb", f"duckdb://{resolved}", {"credentials": str(resolved)})


def _bigquery(parts: SplitResult) -> Database:
    if not parts.hostname:
        raise WarehouseRefused("bigquery:// needs a project: bigquery://project?location=EU")
    options = {"project_id": parts.netloc, "location": _options(parts).get("location", "US")}
    return Database("bigquery", _safe_name(parts), options)


_DATABASES: Mapping[str, Callable[[SplitResult], Database]] = MappingProxyType(
    {
        "bigquery": _bigquery,
        "duckdb": _duckdb,
        "mssql": _server("mssql"),
        "postgres": _server("postgres"),
        "postgresql": _server("postgres"),
        "snowflake": _server("snowflake"),
    }
)
