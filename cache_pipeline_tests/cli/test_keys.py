"""Tests that a key can be used from `keys create` over `keys list` to `keys revoke`."""

import shutil
import sys
from pathlib import Path

import pytest

from cache_pipeline.cli.main import main

REPORTS = Path(__file__).parents[2] / "reports"


@pytest.fixture
def run_keys(servers, tmp_path, monkeypatch, capsys):
    shutil.copy(REPORTS / "queue_day.yaml", tmp_path)
    monkeypatch.setenv("CACHE_PIPELINE_REPORTS_DIR", str(tmp_path))

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["cache-pipeline", "keys", *arguments])
        main()
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("columns", ["40", "80", "200"])
def test_listed_id_can_be_revoked(run_keys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    run_keys("create", "a dashboard with a long name", "--report", "queue_day", "--requests-per-minute", "60")
    listed = run_keys("list")
    (key_id,) = [word for word in listed.split() if len(word) == 12 and set(word) <= set("0123456789abcdef")]
    assert run_keys("revoke", key_id) == f"key {key_id} revoked\n"
