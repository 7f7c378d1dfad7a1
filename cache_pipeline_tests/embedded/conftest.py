"""A data folder with a cluster in it, so that few tests pay for making one."""

from pathlib import Path

import pytest

from cache_pipeline.embedded import embedded_servers


@pytest.fixture(scope="session")
def kept_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that has been used before and is in use by nobody."""
    folder = tmp_path_factory.mktemp("kept")
    with embedded_servers(folder, redis_url="redis://unused"):
        pass
    return folder
