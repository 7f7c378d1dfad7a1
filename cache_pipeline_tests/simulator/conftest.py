from collections.abc import Iterator

import pytest

from cache_pipeline.simulator import SimulatorSettings
from cache_pipeline_tests.simulator.vendor import SettableClock, Vendor, open_vendor


@pytest.fixture
def vendor() -> Iterator[Vendor]:
    """A simulator of this test's alone, as it is without any setting."""
    with open_vendor(SimulatorSettings()) as vendor:
        yield vendor


@pytest.fixture(scope="module")
def _simulator_of_the_file() -> Iterator[Vendor]:
    with open_vendor(SimulatorSettings(reportdata_rate_limit=100_000, genesys_rate_limit=100_000)) as vendor:
        yield vendor


@pytest.fixture
def shared_vendor(_simulator_of_the_file: Vendor) -> Vendor:
    """One simulator for the tests of a file, with room for all their requests; clock and faults are as at first."""
    _simulator_of_the_file.clock.seconds = SettableClock().seconds
    _simulator_of_the_file.http.delete("/simulator/faults")
    return _simulator_of_the_file
