"""Servers for the command line's tests."""

import pytest

from cache_pipeline.simulator import SimulatorSettings, running_simulator


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
