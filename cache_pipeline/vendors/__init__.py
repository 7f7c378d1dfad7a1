"""Vendor adapters: one package for each vendor's API. No other package knows a vendor's field names."""
