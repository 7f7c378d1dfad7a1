"""A data folder that already holds a cluster, so that few tests pay for creating one."""

from pathlib import Path

import pytest

from cache_pipeline.embedded import embedded_servers


@pytest.fixture(scope="session")
def used_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that was used before and is free now."""
    folder = tmp_path_factory.mktemp("reused")
    with embedded_servers(folder, redis_url="redis://unused"):
        pass
    return folder
