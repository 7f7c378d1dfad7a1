"""The guards of the repository see what they are there for, and do not take silence for success."""

import json
import secrets

import yaml

from cache_pipeline_tests.security.audit import NOT_AUDITED, verdict
from cache_pipeline_tests.security.scan import _ALLOWED, main


def test_a_planted_secret_is_found(tmp_path, capsys):
    key = tmp_path / "deploy.py"
    key.write_text(f'password = "{secrets.token_hex(12)}"\n-----BEGIN {"RSA"} PRIVATE KEY-----\n')
    assert main([str(key)]) == 1
    told = capsys.readouterr().out
    assert "Secret Keyword" in told
    assert "Private Key" in told


def test_what_holds_no_secret_passes(tmp_path):
    plain = tmp_path / "plain.py"
    plain.write_text("password = read_password()\n")
    assert main([str(plain)]) == 0


def test_every_exception_says_why():
    assert all(entry["why"] for entry in yaml.safe_load(_ALLOWED.read_text()))


def test_an_advisory_service_that_is_away_is_no_success(capsys):
    assert verdict("", "ConnectionError: no such host") == NOT_AUDITED
    assert "NOT AUDITED" in capsys.readouterr().out
    skipped = {"dependencies": [{"name": "idna", "skip_reason": "not found"}]}
    assert verdict(json.dumps(skipped), "") == NOT_AUDITED
    assert verdict(json.dumps({"dependencies": []}), "") == NOT_AUDITED


def test_a_known_vulnerability_is_told(capsys):
    package = {"name": "some", "version": "1.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["1.1"]}]}
    assert verdict(json.dumps({"dependencies": [package]}), "") == 1
    assert "some 1.0: PYSEC-1, mended in 1.1" in capsys.readouterr().out
    assert verdict(json.dumps({"dependencies": [{**package, "vulns": []}]}), "") == 0
