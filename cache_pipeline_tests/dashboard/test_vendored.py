"""The third-party code in the page is exactly the recorded versions, with their licences."""

import hashlib
import re

from cache_pipeline.dashboard import page_sources
from cache_pipeline.dashboard.third_party import read_versions


def test_bundle_is_the_recorded_one_with_licences():
    sources = page_sources()
    record = read_versions()
    assert hashlib.sha256(sources["vendor/parquet.js"]).hexdigest() == record["sha256"]
    licences = sources["vendor/licences.txt"].decode()
    for name, library in record["libraries"].items():
        assert library["licence"] == "MIT"
        assert f"{name} {library['version']}" in licences
    assert licences.count("Permission is hereby granted") == len(record["libraries"])


def test_page_is_small():
    own = {path: body for path, body in page_sources().items() if path.endswith((".js", ".css", ".html"))}
    assert sum(map(len, own.values())) < 150_000


def test_page_names_no_other_host():
    for path, body in page_sources().items():
        if not path.startswith("vendor/"):
            hosts = set(re.findall(rb"https?://([\w.]+)", body)) - {b"www.w3.org"}
            assert not hosts, path
