"""Single stores, which open faster than the whole service."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

from cache_pipeline.bootstrap.clock import utc_now
from cache_pipeline.query.series import tenant_schema
from cache_pipeline.settings import Settings

# The stores and the upstream client take most of a second to import, so each is imported by the function that opens it.
if TYPE_CHECKING:
    from cache_pipeline.service.names import Names
    from cache_pipeline.storage.ports.hot import HotTier
    from cache_pipeline.storage.published import EdgeTier
    from cache_pipeline.storage.published.registration import Registration


def open_edge_tier(settings: Settings) -> EdgeTier:
    """Return the edge tier that the settings name."""
    from cache_pipeline.storage.published import EdgeTier

    return EdgeTier(settings.edge_store_url, utc_now, settings.tenant)


def register_published(settings: Settings, edge: EdgeTier) -> list[Registration]:
    """Register the published files in the catalogues that the settings name: Iceberg's, DuckLake's, both or none.

    Raises:
        EdgeStoreError: A catalogue or the store cannot be used.
    """
    store_url = settings.edge_store_url.rstrip("/")
    files_url = f"{store_url}/v1/{settings.tenant}"
    namespace = tenant_schema("cache_pipeline", settings.tenant)
    registered: list[Registration] = []
    if settings.iceberg_catalog_url is not None:
        from cache_pipeline.storage.published.iceberg import IcebergCatalog

        iceberg = IcebergCatalog(settings.iceberg_catalog_url.get_secret_value(), store_url, namespace)
        registered += iceberg.register(edge, files_url)
    if settings.ducklake_catalog_url is not None:
        from cache_pipeline.storage.published.ducklake import DuckLakeCatalog

        lake = DuckLakeCatalog(settings.ducklake_catalog_url.get_secret_value(), store_url, namespace)
        registered += lake.register(edge, files_url)
    return registered


@contextmanager
def open_stored_names(settings: Settings) -> Generator[Names]:
    """Open the stored names of the settings' tenant.

    Raises:
        SettingsError: No URL is set.
    """
    from cache_pipeline.service.names import Names
    from cache_pipeline.storage.postgres.names import open_names

    with open_names(settings.required_postgres_url()) as store:
        yield Names(store, settings.tenant)


@asynccontextmanager
async def open_hot_tier(settings: Settings) -> AsyncGenerator[HotTier]:
    """Open the hot tier alone, which takes a fraction of the time of the whole service.

    Raises:
        SettingsError: No Redis URL is set.
    """
    from cache_pipeline.redis_connection import open_redis
    from cache_pipeline.storage.redis.hot import RedisHotTier

    async with open_redis(settings.required_redis_url()) as redis:
        yield RedisHotTier(redis)
