"""Tests that the documentation site builds without warnings and its reference is complete."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cache_pipeline.doctor.databases import MIN_POSTGRES_VERSION
from cache_pipeline.query.report import FetchOptions, FreshnessOptions, PublishOptions, Report
from cache_pipeline.settings import Settings

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


def words(page):
    return re.sub(r"<[^>]+>", "", page.read_text())


def test_reference_has_every_report_field(site):
    text = words(site / "reference" / "reports" / "index.html")
    models = (Report, FetchOptions, FreshnessOptions, PublishOptions)
    assert [name for model in models for name in model.model_fields if name not in text] == []


def test_reference_has_every_setting(site):
    text = words(site / "reference" / "settings" / "index.html")
    assert [name for name in Settings.model_fields if f"CACHE_PIPELINE_{name.upper()}" not in text] == []


def test_account_page_names_the_oldest_supported_postgresql(site):
    assert f"PostgreSQL {MIN_POSTGRES_VERSION} or newer" in words(site / "account" / "index.html")


def test_reference_has_every_command(site):
    text = words(site / "reference" / "command-line" / "index.html")
    for command in ("demo", "dev", "query", "plan", "edge publish", "keys create", "with-servers"):
        assert f"cache-pipeline {command}" in text


def test_pages_load_nothing_from_other_hosts(site):
    requested = re.compile(r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=\"?(?:https?:)?//")
    assert [str(page.relative_to(site)) for page in site.rglob("*.html") if requested.search(page.read_text())] == []
