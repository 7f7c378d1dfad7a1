"""Fetch what is missing from the vendor, and prove that it is complete."""
