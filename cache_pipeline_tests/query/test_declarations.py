import json
from pathlib import Path
from typing import Any

import pytest

from cache_pipeline.bootstrap import review_declaration
from cache_pipeline.errors import UnknownReport
from cache_pipeline.query.declarations import DeclarationError, find_report, read_report, read_reports
from cache_pipeline.query.report import Report
from cache_pipeline_tests.query.declared import FIELDS

REPORTS = Path(__file__).parents[2] / "reports"


def write(folder: Path, name: str = "queue_hour.yaml", **changes: Any) -> Path:
    """A declaration with one field on each line, in the order of FIELDS; None leaves a field out."""
    fields = {field: value for field, value in (FIELDS | changes).items() if value is not None}
    text = "".join(f"{field}: {json.dumps(value)}\n" for field, value in fields.items())
    (folder / name).write_text(text)
    return folder / name


def line_of(path: Path, field: str) -> int:
    return next(n for n, line in enumerate(path.read_text().splitlines(), 1) if line.startswith(f"{field}:"))


def test_the_reports_of_the_project_are_sound_and_in_order_of_name():
    reports = read_reports(REPORTS, review_declaration)
    assert list(reports) == ["conversation_day", "conversation_hour", "queue_day", "queue_interval"]
    assert all(name == report.report for name, report in reports.items())


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("granularity", "PT7M", "not a step of the calendar"),
        ("granularity", "hourly", "not a step of the calendar"),
        ("time_zone", "Europe/Atlantis", "IANA"),
        ("volume_metric", "abandoned", "not one of metrics"),
        ("partition", "fortnight", "'hour', 'day' or 'week'"),
        ("start", "soon", "date"),
        ("report", "Queue Hour", "pattern"),
        ("report", "a" * 48, "pattern"),
        ("metrics", [], "at least 1"),
        ("metrics", "offered", "tuple"),
        ("expected_groups", 0, "greater than or equal to 1"),
        ("chunk", "PT30M", "granularity PT1H does not divide a chunk of PT30M"),
        ("chunk", "P1Y", "not a step of the calendar"),
        ("tiers", ["hot", "edge"], "must contain history"),
        ("tiers", ["hot", "tape"], "'hot', 'history' or 'edge'"),
        ("freshness", "PT0S", "greater than 0"),
        ("settle", "-PT5M", "greater than or equal to 0"),
        ("delivery", "carrier pigeon", "'async' or 'sync'"),
        ("colour", "blue", "is no field here; a report has report, "),
    ],
)
def test_a_mistake_is_named_by_file_line_and_field(tmp_path, field, value, told):
    path = write(tmp_path, **{field: value})
    with pytest.raises(DeclarationError) as refused:
        read_report(path)
    [mistake] = refused.value.mistakes
    assert (mistake.file, mistake.line, mistake.field.split(".")[0]) == (path, line_of(path, field), field)
    assert told in mistake.problem
    assert str(refused.value).startswith(f"{path}:{mistake.line}: {field}")


@pytest.mark.parametrize("granularity", ["PT2H", "PT45M", "P1D"])
def test_a_granularity_that_a_partition_would_cut_is_named_at_the_partition(tmp_path, granularity):
    path = write(tmp_path, granularity=granularity, partition="hour")
    with pytest.raises(DeclarationError, match=f"granularity {granularity} does not divide a partition") as refused:
        read_report(path)
    assert refused.value.mistakes[0].line == line_of(path, "partition")


def test_a_granularity_that_the_usual_chunk_would_cut_is_refused_too(tmp_path):
    with pytest.raises(DeclarationError, match="chunk: granularity P1W does not divide a chunk of P1D"):
        read_report(write(tmp_path, granularity="P1W", partition="week"))


@pytest.mark.parametrize("field", ["report", "description", "platform", "query_type", "granularity", "group_by",
                                   "metrics", "partition", "start"])  # fmt: skip
def test_a_missing_field_is_named(tmp_path, field):
    path = write(tmp_path, **{field: None, "volume_metric": None})
    with pytest.raises(DeclarationError) as refused:
        read_report(path)
    assert [(mistake.field, mistake.problem) for mistake in refused.value.mistakes] == [(field, "is missing")]


def test_a_mistake_inside_a_list_is_named_by_its_own_line(tmp_path):
    path = write(tmp_path)
    path.write_text(path.read_text() + "filters:\n  predicates:\n    - dimension: queueId\n      values: []\n")
    with pytest.raises(DeclarationError) as refused:
        read_report(path)
    [mistake] = refused.value.mistakes
    assert (mistake.field, mistake.line) == ("filters.predicates.0.values", line_of(path, "filters") + 3)


def test_every_mistake_of_every_file_is_told_at_once(tmp_path):
    write(tmp_path, "a.yaml", granularity="PT7M", time_zone="Nowhere")
    write(tmp_path, "b.yaml", report="b", metrics=None)
    with pytest.raises(DeclarationError) as refused:
        read_reports(tmp_path)
    told = {(mistake.file.name, mistake.field) for mistake in refused.value.mistakes}
    assert told == {("a.yaml", "granularity"), ("a.yaml", "time_zone"), ("b.yaml", "metrics")}


def test_a_name_declared_twice_is_refused_with_both_files(tmp_path):
    first, second = write(tmp_path, "a.yaml"), write(tmp_path, "b.yml")
    with pytest.raises(DeclarationError, match="declared already") as refused:
        read_reports(tmp_path)
    assert str(first) in str(refused.value)
    assert refused.value.mistakes[0].file == second


@pytest.mark.parametrize(
    ("content", "line", "told"),
    [
        (b"report: [queue_hour\n", 2, "is not YAML"),
        (b"report: a\n\tgroup_by: b\n", 2, "is not YAML"),
        (b"report: !!python/object:os.system {}\n", 1, "is not YAML"),
        (b"- a\n- b\n", 1, "must be a mapping"),
        (b"", 1, "must be a mapping"),
        (b"\xff\xfe\x00", 0, "cannot be read: it is not UTF-8"),
        (b"report: \x07\n", 0, "is not YAML"),
    ],
)
def test_what_is_no_declaration_is_told_with_its_file(tmp_path, content, line, told):
    path = tmp_path / "wrong.yaml"
    path.write_bytes(content)
    with pytest.raises(DeclarationError) as refused:
        read_report(path)
    [mistake] = refused.value.mistakes
    assert (mistake.file, mistake.line) == (path, line)
    assert told in mistake.problem


def test_an_empty_or_absent_folder_is_told(tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(DeclarationError, match="holds no report declarations"):
            read_reports(folder)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"platform": "avaya"}, "platform"),
        ({"delivery": "sync"}, "delivery"),
        ({"granularity": "PT2H"}, "granularity"),
    ],
)
def test_what_only_the_platform_knows_is_told_at_its_line_too(tmp_path, changes, field):
    path = write(tmp_path, **changes)
    with pytest.raises(DeclarationError) as refused:
        read_report(path, review_declaration)
    [mistake] = refused.value.mistakes
    assert (mistake.field, mistake.line) == (field, line_of(path, field))


def test_an_unknown_report_is_told_with_those_there_are(tmp_path):
    write(tmp_path)
    reports = read_reports(tmp_path)
    assert isinstance(find_report(reports, "queue_hour"), Report)
    with pytest.raises(UnknownReport, match="no report 'queue_day': declared are queue_hour"):
        find_report(reports, "queue_day")
