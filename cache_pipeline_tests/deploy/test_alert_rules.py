"""The alert rules on synthetic series, and the runbook of each alert."""

import re
import subprocess

import pytest
import yaml

from cache_pipeline.cli.main import cli
from cache_pipeline_tests.deploy.rules import FOLDER, REPOSITORY, alerts
from cache_pipeline_tests.programs import find_program

PAGES = REPOSITORY / "docs" / "runbooks"
HEADINGS = ["What it means", "What users see", "Where to look", "How to fix it"]


def promtool(*arguments):
    completed = subprocess.run(
        [find_program("promtool"), *arguments], cwd=FOLDER, capture_output=True, text=True, check=False
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr


def test_each_alert_waits_then_fires_on_synthetic_series():
    promtool("test", "rules", "tests.yml")
    cases = yaml.safe_load((FOLDER / "tests.yml").read_text())["tests"]
    silent, firing = set(), set()
    for case in cases:
        for check in case["alert_rule_test"]:
            (firing if check.get("exp_alerts") else silent).add(check["alertname"])
    assert silent == firing == set(alerts())


def test_prometheus_configuration_is_valid():
    promtool("check", "config", "prometheus.yml")


@pytest.mark.parametrize("alert", alerts())
def test_each_alert_has_runbook(alert):
    rule = alerts()[alert]
    assert rule["annotations"]["runbook"] == f"docs/runbooks/{alert}.md"
    assert rule["labels"]["severity"] in ("critical", "warning")
    page = (PAGES / f"{alert}.md").read_text()
    assert page.startswith(f"# {alert}\n")
    assert re.findall(r"^## (.+)$", page, re.MULTILINE) == HEADINGS
    for other in re.findall(r"\]\((\w+)\.md\)", page):
        assert other in alerts()


def test_each_runbook_has_alert():
    assert {path.stem for path in PAGES.glob("CachePipeline*.md")} == set(alerts())


def test_commands_in_runbooks_exist():
    named = {name for path in PAGES.glob("*.md") for name in re.findall(r"`cache-pipeline ([a-z-]+)", path.read_text())}
    assert named
    assert named <= set(cli.short_helps())


def test_operations_page_names_every_alert():
    named = set(re.findall(r"runbooks/(\w+)\.md", (PAGES.parent / "operating.md").read_text()))
    assert named == set(alerts())
