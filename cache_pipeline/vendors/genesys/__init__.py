"""The Analytics API of Genesys Cloud CX."""
