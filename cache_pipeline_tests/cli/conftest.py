"""Fixtures of the command-line tests: servers, a simulated vendor, and the doctor command."""

import json
import os
import sys

import pytest

from cache_pipeline.cli.main import main
from cache_pipeline.simulator import SimulatorSettings, running_simulator

#: Client secret of the accounts that the tests configure.
SECRET = "planted-secret-value"


@pytest.fixture
def no_settings(monkeypatch):
    """Remove every setting of this machine from the environment."""
    for name in list(os.environ):
        if name.startswith("CACHE_PIPELINE_") and not name.startswith("CACHE_PIPELINE_TEST_"):
            monkeypatch.delenv(name)


@pytest.fixture
def servers(postgres_database, redis_database, monkeypatch):
    """Configure real servers."""
    monkeypatch.setenv("CACHE_PIPELINE_POSTGRES_URL", postgres_database)
    monkeypatch.setenv("CACHE_PIPELINE_REDIS_URL", redis_database)


@pytest.fixture
def simulator_url():
    """Run a simulated vendor with only the default client."""
    with running_simulator(SimulatorSettings()) as url:
        yield url


@pytest.fixture
def doctor(monkeypatch, capsys):
    """Return a function that runs the command and returns its exit code and its findings by subject."""

    def run_doctor():
        monkeypatch.setattr(sys, "argv", ["cache-pipeline", "doctor", "--json"])
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = ended.code
        output = capsys.readouterr()
        assert SECRET not in output.out + output.err
        return code, {finding["subject"]: finding for finding in json.loads(output.out)}

    return run_doctor
