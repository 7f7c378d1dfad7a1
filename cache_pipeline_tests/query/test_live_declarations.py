"""Tests of the declarations of live reports: what is told from other reports, and every mistake by file, line and field."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from cache_pipeline.bootstrap.reports import Declarations
from cache_pipeline.query.declarations import DeclarationError

REPORTS = Path(__file__).parents[2] / "reports"
QUEUE_NOW = yaml.safe_load((REPORTS / "queue_now.yaml").read_text())


def _mistakes(tmp_path: Path, **changes: Any) -> list[tuple[str, str]]:
    fields = {name: value for name, value in (QUEUE_NOW | changes).items() if value is not None}
    (tmp_path / "live.yaml").write_text(yaml.safe_dump(fields))
    (tmp_path / "hour.yaml").write_text((REPORTS / "conversation_hour.yaml").read_text())
    try:
        declared = Declarations().read_folder(tmp_path)
    except DeclarationError as error:
        return [(each.field, each.problem) for each in error.mistakes if each.line and each.file.name == "live.yaml"]
    assert list(declared) == ["conversation_hour"]
    assert list(Declarations().read_all(tmp_path)[1]) == ["queue_now"]
    return []


def test_live_reports_are_apart_from_those_with_partitions() -> None:
    live = Declarations().read_all(REPORTS)[1]
    assert set(live) == {"agent_now", "queue_now"}
    assert set(live).isdisjoint(Declarations().read_folder(REPORTS))


@pytest.mark.parametrize(
    ("changes", "field", "problem"),
    [
        ({}, None, None),
        ({"thresholds": None, "service_level": None}, None, None),
        ({"platform": "cxone"}, "query_type", "does not answer queueObservations, which shows the present"),
        ({"platform": "reportdata"}, "query_type", "write platform: genesys"),
        ({"platform": "acme"}, "platform", "unknown platform 'acme'"),
        ({"granularity": "PT1H"}, "granularity", "unknown field 'granularity'; expected one of name"),
        ({"partition": "day"}, "partition", "unknown field"),
        ({"metrics": ["oWaiting", "nOffered"]}, "metrics", "nOffered: queueObservations has oWaiting"),
        ({"metrics": []}, "metrics", "at least 1"),
        ({"group_by": ["mediaType"], "service_level": None}, "group_by", "are by queueId: add it"),
        ({"group_by": ["queueId", "userId"], "service_level": None}, "group_by", "userId: queueObservations has"),
        ({"thresholds": {"waiting": {}}}, "thresholds.waiting", "declare warn, alarm, or both"),
        ({"thresholds": {"moods": {"warn": 1}}}, "thresholds.moods", "unknown field 'moods'; expected one of waiting"),
        ({"service_level": {**QUEUE_NOW["service_level"], "report": "x"}}, "service_level.report", "no report 'x'"),
        (
            {"service_level": {"report": "conversation_hour", "measure": "x"}},
            "service_level.measure",
            "no measure 'x' that is a share; it has abandon_rate",
        ),
        (
            {"service_level": {"report": "conversation_hour", "measure": "average_handle_time"}},
            "service_level.measure",
            "no measure 'average_handle_time' that is a share",
        ),
        ({"name": "conversation_hour"}, "name", "is already declared in"),
    ],
)
def test_every_mistake_has_its_place(tmp_path: Path, changes: dict[str, Any], field: str | None, problem: str) -> None:
    found = _mistakes(tmp_path, **changes)
    assert [name for name, _ in found] == ([field] if field else [])
    assert all(problem in text for _, text in found)
