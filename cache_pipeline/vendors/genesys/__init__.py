"""Genesys Cloud CX."""
