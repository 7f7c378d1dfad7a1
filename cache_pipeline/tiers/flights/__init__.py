"""Single flight (G20): one at a time over all processes, and one task for all identical callers of a process."""

from cache_pipeline.tiers.flights.flights import Flights
from cache_pipeline.tiers.flights.sharing import Sharing

__all__ = ["Flights", "Sharing"]
