"""Simulated contact-centre vendor: an HTTP server with known calls behind it. It shares no code with the client."""

from cache_pipeline.simulator.app import create_app
from cache_pipeline.simulator.clock import Clock, WallClock
from cache_pipeline.simulator.errors import SimulatorError
from cache_pipeline.simulator.server import running_simulator, serve
from cache_pipeline.simulator.settings import SIMULATED_VENDORS, TRUNCATED_DAYS, SimulatorSettings

__all__ = [
    "SIMULATED_VENDORS",
    "TRUNCATED_DAYS",
    "Clock",
    "SimulatorError",
    "SimulatorSettings",
    "WallClock",
    "create_app",
    "running_simulator",
    "serve",
]
