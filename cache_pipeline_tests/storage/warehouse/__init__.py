"""Tests of the warehouses that history is exported to."""
