"""Servers for the command line's tests."""

import json
import sys

import pytest

from cache_pipeline.cli.main import main
from cache_pipeline.simulator import SimulatorSettings, running_simulator

#: Of the accounts that doctors are shown.
SECRET = "planted-secret-value"


@pytest.fixture
def servers(postgres_database, redis_database, monkeypatch):
    """The settings name real servers."""
    monkeypatch.setenv("CACHE_PIPELINE_POSTGRES_URL", postgres_database)
    monkeypatch.setenv("CACHE_PIPELINE_REDIS_URL", redis_database)


@pytest.fixture
def simulator_url():
    """A simulated vendor that knows only its own default client."""
    with running_simulator(SimulatorSettings()) as url:
        yield url


@pytest.fixture
def doctor(monkeypatch, capsys):
    """Runs the command; returns its exit code and the findings by subject. No secret is ever in them."""

    def examine():
        monkeypatch.setattr(sys, "argv", ["cache-pipeline", "doctor", "--json"])
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = ended.code
        said = capsys.readouterr()
        assert SECRET not in said.out + said.err
        return code, {finding["subject"]: finding for finding in json.loads(said.out)}

    return examine
