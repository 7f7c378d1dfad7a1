"""Payloads as dashboards send them, in the words of the guide or of Genesys, read into one question (G6)."""
