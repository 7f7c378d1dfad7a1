"""Logs and traces of a process, tied together by one correlation id."""
