"""Fetching missing rows from the vendor, verifying that they are complete, and storing them."""
