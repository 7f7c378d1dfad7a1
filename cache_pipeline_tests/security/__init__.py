"""Tests of security: secrets, tenants, TLS, hostile input; and the scans of the repository."""
