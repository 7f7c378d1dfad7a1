"""What the pages tell somebody to type at night does what they say: PromQL, SQL and words of the log."""

import re
import subprocess
from pathlib import Path

import psycopg
import pytest
import yaml

from cache_pipeline.bootstrap import load_reports, migrate_history
from cache_pipeline.settings import Settings
from cache_pipeline_tests.deploy.rules import REPOSITORY, alerts
from cache_pipeline_tests.programs import find_program

PAGES = {path.stem: path.read_text() for path in sorted((REPOSITORY / "docs" / "runbooks").glob("*.md"))}
#: In the place of an alert's own expression, so as to leave out two reports.
EXCLUDING = {
    name: found[0] for name, page in PAGES.items() if (found := re.findall(r"```promql\n(.+?)```", page, re.S))
}
EXCLUSION = '{report!~"queue_day|agent_month"}'
#: Series that an alert fires of, where each of its metrics has this value.
VALUES = {
    "cache_pipeline_watermark_lag_seconds": 1_000_000,
    "cache_pipeline_report_age_seconds": 1_000_000,
    "cache_pipeline_report_partition_seconds": 86_400,
    "cache_pipeline_report_freshness_seconds": 3_600,
}


def inline(page):
    """What is written as code within the text, but over no more than one line."""
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
    done = subprocess.run(
        [find_program("promtool"), *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def rule(expression, **more):
    return {"groups": [{"name": "told", "rules": [{**more, "expr": expression}]}]}


def test_every_expression_of_a_page_is_one_that_prometheus_takes(tmp_path):
    assert len(expressions()) > 5
    for number, expression in enumerate(expressions()):
        (tmp_path / f"{number}.yml").write_text(yaml.safe_dump(rule(expression, record="told")))
    promtool(tmp_path, "check", "rules", *(f"{number}.yml" for number in range(len(expressions()))))


def test_the_alerts_on_single_reports_tell_how_to_leave_out_one():
    assert set(EXCLUDING) == {"CachePipelineReportBehind", "CachePipelineReportStale"}


@pytest.mark.parametrize("alert", EXCLUDING)
def test_an_expression_that_leaves_out_reports_is_the_alerts_own_otherwise(alert):
    told = EXCLUDING[alert].replace(EXCLUSION, "", 1)
    assert (told.split(), EXCLUDING[alert].count(EXCLUSION)) == (alerts()[alert]["expr"].split(), 1)


@pytest.mark.parametrize("alert", EXCLUDING)
def test_a_report_that_is_left_out_wakes_nobody_and_the_others_still_do(alert, tmp_path):
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


def test_every_statement_of_a_page_runs_on_the_tables_as_they_are(postgres_database):
    settings = Settings(postgres_url=postgres_database, reports_dir=REPOSITORY / "reports")
    migrate_history(settings, load_reports(settings))
    assert len(statements()) > 5
    with psycopg.connect(postgres_database, autocommit=True) as connection:
        for page, statement in statements():
            try:
                connection.execute(statement.encode())
            except psycopg.Error as error:
                pytest.fail(f"{page}: {statement}: {error}")


def test_the_settings_that_the_pages_name_exist():
    named = {name for page in PAGES.values() for name in re.findall(r"CACHE_PIPELINE_(\w+?)(?:__|\b)", page)}
    assert named
    assert named <= {name.upper() for name in Settings.model_fields}


@pytest.mark.parametrize("words", ["waits until a worker sweeps", "cannot be asked", "login refused", "dead-lettered"])
def test_the_words_that_a_page_has_one_look_for_are_said(words):
    assert any(words in page for page in PAGES.values())
    sources = (path.read_text() for path in Path(REPOSITORY, "cache_pipeline").rglob("*.py"))
    assert any(words in source for source in sources)
