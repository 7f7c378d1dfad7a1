"""The runbooks' PromQL, SQL, settings and log messages exist and work."""

import re
import subprocess
from pathlib import Path

import psycopg
import pytest
import yaml

from cache_pipeline.bootstrap.database import migrate_history
from cache_pipeline.bootstrap.reports import load_reports
from cache_pipeline.settings import Settings
from cache_pipeline_tests.deploy.rules import REPOSITORY, alerts
from cache_pipeline_tests.programs import find_program

PAGES = {path.stem: path.read_text() for path in sorted((REPOSITORY / "docs" / "runbooks").glob("*.md"))}
#: Replacements of an alert's expression that exclude two reports.
EXCLUDING = {
    name: found[0] for name, page in PAGES.items() if (found := re.findall(r"```promql\n(.+?)```", page, re.S))
}
EXCLUSION = '{report!~"queue_day|agent_month"}'
#: Values of metrics with which an alert fires.
VALUES = {
    "cache_pipeline_watermark_lag_seconds": 1_000_000,
    "cache_pipeline_report_overdue_seconds": 1_000_000,
    "cache_pipeline_report_missing_partitions": 3,
    "cache_pipeline_report_partition_seconds": 86_400,
    "cache_pipeline_report_freshness_seconds": 3_600,
}


def inline(page):
    """Return the inline code of a page that fits on one line."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"```.+?```", "", page, flags=re.S))


def expressions():
    found = [
        code for page in PAGES.values() for code in inline(page) if "cache_pipeline_" in code and "SELECT" not in code
    ]
    return [
        *EXCLUDING.values(),
        *(code for code in found if not re.search(r"^cache_pipeline_tests|cache_pipeline\.", code)),
    ]


def statements():
    return [(name, code) for name, page in PAGES.items() for code in inline(page) if code.startswith("SELECT ")]


def promtool(folder, *arguments):
    completed = subprocess.run(
        [find_program("promtool"), *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr


def rule(expression, **more):
    return {"groups": [{"name": "runbook", "rules": [{**more, "expr": expression}]}]}


def test_expressions_are_valid_promql(tmp_path):
    assert len(expressions()) > 5
    for number, expression in enumerate(expressions()):
        (tmp_path / f"{number}.yml").write_text(yaml.safe_dump(rule(expression, record="runbook")))
    promtool(tmp_path, "check", "rules", *(f"{number}.yml" for number in range(len(expressions()))))


def test_alerts_on_reports_show_how_to_exclude_one():
    assert set(EXCLUDING) == {
        "CachePipelineReportBehind",
        "CachePipelineReportMissing",
        "CachePipelineReportStale",
    }


@pytest.mark.parametrize("alert", EXCLUDING)
def test_excluding_expression_otherwise_equals_the_alerts(alert):
    expression = EXCLUDING[alert].replace(EXCLUSION, "", 1)
    assert (expression.split(), EXCLUDING[alert].count(EXCLUSION)) == (alerts()[alert]["expr"].split(), 1)


@pytest.mark.parametrize("alert", EXCLUDING)
def test_excluded_report_raises_no_alert(alert, tmp_path):
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(rule(EXCLUDING[alert], alert=alert)))
    series = [
        {"series": f'{metric}{{report="{report}"}}', "values": f"{value}x5"}
        for metric, value in VALUES.items()
        for report in ("queue_day", "agent_month", "queue_hour")
    ]
    fires = [{"exp_labels": {"report": "queue_hour"}}]
    case = {"input_series": series, "alert_rule_test": [{"alertname": alert, "eval_time": "5m", "exp_alerts": fires}]}
    (tmp_path / "tests.yml").write_text(yaml.safe_dump({"rule_files": ["rules.yml"], "tests": [case]}))
    promtool(tmp_path, "test", "rules", "tests.yml")


def test_statements_run_on_current_tables(postgres_database):
    settings = Settings(postgres_url=postgres_database, reports_dir=REPOSITORY / "reports")
    migrate_history(settings, load_reports(settings))
    assert len(statements()) > 5
    with psycopg.connect(postgres_database, autocommit=True) as connection:
        for page, statement in statements():
            try:
                connection.execute(statement.encode())
            except psycopg.Error as error:
                pytest.fail(f"{page}: {statement}: {error}")


def test_named_settings_exist():
    named = {name for page in PAGES.values() for name in re.findall(r"CACHE_PIPELINE_(\w+?)(?:__|\b)", page)}
    assert named
    assert named <= {name.upper() for name in Settings.model_fields}


@pytest.mark.parametrize("words", ["waits until a worker sweeps", "is unavailable", "login refused", "dead-lettered"])
def test_quoted_log_messages_exist(words):
    assert any(words in page for page in PAGES.values())
    sources = (path.read_text() for path in Path(REPOSITORY, "cache_pipeline").rglob("*.py"))
    assert any(words in source for source in sources)
