"""Chaos test: run a real deployment under random faults, then compare everything it stored with the simulated vendor's data."""
