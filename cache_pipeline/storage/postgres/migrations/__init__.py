"""Alembic migrations of the tables that every deployment has."""
