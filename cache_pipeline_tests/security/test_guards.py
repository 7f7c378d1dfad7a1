"""Tests of the secret scan and the vulnerability audit: they find what they must, and no answer is not success."""

import json
import secrets

import yaml

from cache_pipeline_tests.security.audit import NOT_AUDITED, print_result
from cache_pipeline_tests.security.scan import _ALLOWED, main


def test_scan_finds_planted_secret(tmp_path, capsys):
    key = tmp_path / "deploy.py"
    key.write_text(f'password = "{secrets.token_hex(12)}"\n-----BEGIN {"RSA"} PRIVATE KEY-----\n')
    assert main([str(key)]) == 1
    output = capsys.readouterr().out
    assert "Secret Keyword" in output
    assert "Private Key" in output


def test_scan_passes_file_without_secrets(tmp_path):
    plain = tmp_path / "plain.py"
    plain.write_text("password = read_password()\n")
    assert main([str(plain)]) == 0


def test_every_exception_has_a_reason():
    assert all(entry["reason"] for entry in yaml.safe_load(_ALLOWED.read_text()))


def test_audit_fails_if_advisory_service_is_unreachable(capsys):
    assert print_result("", "ConnectionError: no such host") == NOT_AUDITED
    assert "NOT AUDITED" in capsys.readouterr().out
    skipped = {"dependencies": [{"name": "idna", "skip_reason": "not found"}]}
    assert print_result(json.dumps(skipped), "") == NOT_AUDITED
    assert print_result(json.dumps({"dependencies": []}), "") == NOT_AUDITED


def test_audit_reports_known_vulnerability(capsys):
    package = {"name": "some", "version": "1.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["1.1"]}]}
    assert print_result(json.dumps({"dependencies": [package]}), "") == 1
    assert "some 1.0: PYSEC-1, fixed in 1.1" in capsys.readouterr().out
    assert print_result(json.dumps({"dependencies": [{**package, "vulns": []}]}), "") == 0
