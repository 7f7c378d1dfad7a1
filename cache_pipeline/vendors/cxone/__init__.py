"""NICE CXone."""
