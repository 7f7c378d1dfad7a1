"""Fixtures: a simulator for each test, and one shared by the tests of a file."""

from collections.abc import Iterator

import pytest

from cache_pipeline.simulator import SimulatorSettings
from cache_pipeline_tests.simulator.vendor import SettableClock, Vendor, open_vendor


@pytest.fixture
def vendor() -> Iterator[Vendor]:
    """Run a simulator with default settings for one test."""
    with open_vendor(SimulatorSettings()) as vendor:
        yield vendor


@pytest.fixture(scope="module")
def _module_vendor() -> Iterator[Vendor]:
    with open_vendor(SimulatorSettings(reportdata_rate_limit=100_000, genesys_rate_limit=100_000)) as vendor:
        yield vendor


@pytest.fixture
def shared_vendor(_module_vendor: Vendor) -> Vendor:
    """Share one simulator with high rate limits between the tests of a file; clock and faults are reset."""
    _module_vendor.clock.seconds = SettableClock().seconds
    _module_vendor.http.delete("/simulator/faults")
    return _module_vendor
