"""Tests for the command line of the chaos test."""

import sys

from cache_pipeline_tests.chaos import __main__ as command


def test_missing_servers_are_named(monkeypatch, capsys):
    monkeypatch.setattr(command, "locate_program", lambda *names: None if "pgbouncer" in names else names[0])
    monkeypatch.setattr(sys, "argv", ["chaos", "--seconds", "10", "--seed", "1"])
    assert command.main() == 2
    assert "PgBouncer must be installed: .ci/run shows how" in capsys.readouterr().out
