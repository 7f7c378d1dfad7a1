"""Builds the services from the settings, a module for each kind of thing: declared reports, vendor accounts, stores, services."""
