"""The alert rules, each on made-up series, and the page that whoever is woken by one opens."""

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
    done = subprocess.run(
        [find_program("promtool"), *arguments], cwd=FOLDER, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_waits_and_then_fires_on_made_up_series():
    promtool("test", "rules", "tests.yml")
    cases = yaml.safe_load((FOLDER / "tests.yml").read_text())["tests"]
    silent, firing = set(), set()
    for case in cases:
        for check in case["alert_rule_test"]:
            (firing if check.get("exp_alerts") else silent).add(check["alertname"])
    assert silent == firing == set(alerts())


def test_the_configuration_beside_the_rules_is_one_that_prometheus_takes():
    promtool("check", "config", "prometheus.yml")


@pytest.mark.parametrize("alert", alerts())
def test_no_alert_lacks_its_page(alert):
    rule = alerts()[alert]
    assert rule["annotations"]["runbook"] == f"docs/runbooks/{alert}.md"
    assert rule["labels"]["severity"] in ("critical", "warning")
    page = (PAGES / f"{alert}.md").read_text()
    assert page.startswith(f"# {alert}\n")
    assert re.findall(r"^## (.+)$", page, re.MULTILINE) == HEADINGS
    for other in re.findall(r"\]\((\w+)\.md\)", page):
        assert other in alerts()


def test_no_page_lacks_its_alert():
    assert {path.stem for path in PAGES.glob("CachePipeline*.md")} == set(alerts())


def test_the_commands_that_the_pages_tell_of_exist():
    told = {name for path in PAGES.glob("*.md") for name in re.findall(r"`cache-pipeline ([a-z-]+)", path.read_text())}
    assert told
    assert told <= set(cli.commands)


def test_the_page_on_operating_names_every_alert():
    told = set(re.findall(r"runbooks/(\w+)\.md", (PAGES.parent / "operating.md").read_text()))
    assert told == set(alerts())
