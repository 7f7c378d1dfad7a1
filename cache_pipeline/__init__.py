"""Semantic cache and pipeline between a contact centre's Analytics API and everybody who reads its figures."""
