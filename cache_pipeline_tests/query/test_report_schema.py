"""The JSON Schema with which editors check declarations: it agrees with what the reader accepts."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from cache_pipeline.bootstrap.reports import report_schema_text
from cache_pipeline.query.live_report import LiveReport, Thresholds
from cache_pipeline.query.report import FetchOptions, FreshnessOptions, PublishOptions, Report
from cache_pipeline.query.report_schema import report_json_schema
from cache_pipeline_tests.query.declared import FIELDS, grouped

REPORTS = Path(__file__).parents[2] / "reports"
SCHEMA = report_json_schema(["genesys", "reportdata"], live_query_types=["queueObservations", "userObservations"])


def mistakes(document: dict[str, Any]) -> list[str]:
    # YAML parses a day as a date. An editor sees the text.
    written = json.loads(json.dumps(document, default=str))
    validator = jsonschema.Draft202012Validator(SCHEMA, format_checker=jsonschema.FormatChecker())
    return [error.json_path for error in validator.iter_errors(written)]


def test_stored_schema_is_the_one_the_command_prints():
    remedy = "it is stale: cache-pipeline reports --json-schema > reports/report.schema.json"
    assert (REPORTS / "report.schema.json").read_text() == report_schema_text(), remedy


@pytest.mark.parametrize("path", sorted(REPORTS.glob("*.yaml")), ids=lambda path: path.stem)
def test_project_declarations_name_and_satisfy_the_schema(path: Path):
    text = path.read_text()
    assert text.startswith("# yaml-language-server: $schema=report.schema.json\n")
    assert mistakes(yaml.safe_load(text)) == []


@pytest.mark.parametrize("model", [Report, FetchOptions, FreshnessOptions, PublishOptions, LiveReport, Thresholds])
def test_every_field_is_described(model: type[Report]):
    properties = SCHEMA["$defs"][model.__name__]["properties"]
    assert set(properties) == set(model.model_fields)
    assert [name for name, field in properties.items() if not field.get("description")] == []


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"colour": "red"}, "$"),
        ({"platform": "reportdatum"}, "$.platform"),
        ({"partition": "month"}, "$.partition"),
        ({"name": "Queue Hour"}, "$.name"),
        ({"expected_groups": 0}, "$.fetch.expected_groups"),
        ({"tiers": ["history", "tape"]}, "$.publish.tiers[1]"),
        ({"fetch": {"colour": "red"}}, "$.fetch"),
        ({"filters": {"predicates": [{"dimension": "queueId"}]}}, "$.filters.predicates[0]"),
    ],
)
def test_editor_marks_the_invalid_field(changes: dict[str, Any], field: str):
    assert mistakes(grouped(FIELDS)) == []
    assert mistakes(grouped({**FIELDS, "expected_groups": 24, **changes})) == [field]
