"""The errors of catalogues name no password, however long the URL is and however the library spells it."""

import pytest

from cache_pipeline.errors import EdgeStoreError
from cache_pipeline.storage.published.ducklake import DuckLakeCatalog
from cache_pipeline.storage.published.registration import catalogue_error

URL = "postgresql://someone:planted-secret-value@127.0.0.1:1/nowhere"


@pytest.mark.parametrize("before", ["", "x" * 190, "x" * 280])
@pytest.mark.parametrize("url", [URL, f"{URL}?options={'o' * 400}", URL.replace("postgresql:", "postgresql+psycopg:")])
def test_error_names_no_password(before: str, url: str):
    error = catalogue_error("Iceberg", OSError(f"{before} cannot open {url}\nfor a reason"), [url], remedy="check it")
    assert "planted" not in str(error)
    assert "someone" not in str(error)


def test_file_of_a_catalogue_needs_an_absolute_path(tmp_path):
    with pytest.raises(EdgeStoreError, match="duckdb:///folder"):
        DuckLakeCatalog("duckdb://data/lake.ducklake", str(tmp_path), "example")
