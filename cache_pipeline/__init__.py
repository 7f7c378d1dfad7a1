"""Semantic cache and pipeline between a contact centre's Analytics API and everyone who reads its figures."""
