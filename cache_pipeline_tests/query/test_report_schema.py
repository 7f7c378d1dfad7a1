"""The JSON Schema that editors check declarations by: it agrees with what the reading of them accepts."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from cache_pipeline.bootstrap import report_schema_text
from cache_pipeline.query.report import Report
from cache_pipeline.query.report_schema import report_json_schema
from cache_pipeline_tests.query.declared import FIELDS

REPORTS = Path(__file__).parents[2] / "reports"
SCHEMA = report_json_schema(["genesys", "reportdata"])


def mistakes(document: dict[str, Any]) -> list[str]:
    # YAML reads a day as a date, which editors see as the text that it is.
    written = json.loads(json.dumps(document, default=str))
    validator = jsonschema.Draft202012Validator(SCHEMA, format_checker=jsonschema.FormatChecker())
    return [error.json_path for error in validator.iter_errors(written)]


def test_the_schema_beside_the_reports_is_the_one_that_the_command_prints():
    told = "it is stale: cache-pipeline reports --json-schema > reports/report.schema.json"
    assert (REPORTS / "report.schema.json").read_text() == report_schema_text(), told


@pytest.mark.parametrize("path", sorted(REPORTS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_declaration_of_the_project_names_the_schema_and_keeps_it(path: Path):
    text = path.read_text()
    assert text.startswith("# yaml-language-server: $schema=report.schema.json\n")
    assert mistakes(yaml.safe_load(text)) == []


def test_every_field_of_a_declaration_is_described():
    assert set(SCHEMA["properties"]) == set(Report.model_fields)
    assert [name for name, field in SCHEMA["properties"].items() if not field.get("description")] == []


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"colour": "red"}, "$"),
        ({"platform": "reportdatum"}, "$.platform"),
        ({"partition": "month"}, "$.partition"),
        ({"report": "Queue Hour"}, "$.report"),
        ({"expected_groups": 0}, "$.expected_groups"),
        ({"tiers": ["history", "tape"]}, "$.tiers[1]"),
        ({"filters": {"predicates": [{"dimension": "queueId"}]}}, "$.filters.predicates[0]"),
    ],
)
def test_an_editor_marks_the_field_that_is_wrong(changes: dict[str, Any], field: str):
    assert mistakes(FIELDS) == []
    assert mistakes({**FIELDS, **changes}) == [field]
