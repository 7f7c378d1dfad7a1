"""Reading declarations: the project's own are valid, and every mistake is reported by file, line and field."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from cache_pipeline.bootstrap.reports import Declarations
from cache_pipeline.errors import UnknownReport
from cache_pipeline.query.declarations import DeclarationError, find_report, read_report, read_reports
from cache_pipeline.query.report import Report
from cache_pipeline_tests.query.declared import FIELDS, declared, group_of, grouped

REPORTS = Path(__file__).parents[2] / "reports"


def write(folder: Path, file: str = "queue_hour.yaml", /, **changes: Any) -> Path:
    """Write a declaration with one field per line, in the order of FIELDS; None leaves a field out."""
    fields = grouped({field: value for field, value in (FIELDS | changes).items() if value is not None})
    lines: list[str] = []
    for field, value in fields.items():
        if isinstance(value, dict):
            lines += [f"{field}:", *(f"  {inner}: {json.dumps(each)}" for inner, each in value.items())]
        else:
            lines.append(f"{field}: {json.dumps(value)}")
    (folder / file).write_text("".join(f"{line}\n" for line in lines))
    return folder / file


def dotted(field: str) -> str:
    """Return the path of a flat field, with its group."""
    group = group_of(field)
    return f"{group}.{field}" if group else field


def line_of(path: Path, field: str) -> int:
    """Return the line of a field, within its group or not."""
    return next(n for n, line in enumerate(path.read_text().splitlines(), 1) if line.strip().startswith(f"{field}:"))


def test_project_reports_are_valid_and_sorted():
    reports = Declarations().read_folder(REPORTS)
    assert list(reports) == ["conversation_day", "conversation_hour", "queue_day", "queue_interval"]
    assert all(name == each.report.name for name, each in reports.items())


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("granularity", "PT7M", "not a calendar step"),
        ("granularity", "hourly", "not a calendar step"),
        ("granularity", "P1M", "divides a partition of one hour or day or week: use PT15M, PT30M, PT1H, P1D, P1W"),
        ("granularity", "PT36H", "use PT15M, PT30M, PT1H, P1D, P1W"),
        ("granularity", "P1W", "does not divide a partition of one day: use PT15M, PT30M, PT1H, P1D, or a longer"),
        ("time_zone", "Europe/Atlantis", "IANA"),
        ("volume_metric", "abandoned", "not one of metrics"),
        ("partition", "fortnight", "'hour', 'day' or 'week'"),
        ("start", "soon", "date"),
        ("name", "Queue Hour", "pattern"),
        ("name", "a" * 48, "pattern"),
        ("metrics", [], "at least 1"),
        ("metrics", "offered", "must be a list"),
        ("expected_groups", 0, "greater than or equal to 1"),
        ("max_query_interval", "PT30M", "granularity PT1H does not divide a query interval of PT30M"),
        ("max_query_interval", "P1Y", "not a calendar step"),
        ("refetch_window", "PT12H", "is shorter than a partition, which is fetched as a whole: declare P1D or more"),
        ("tiers", ["hot", "edge"], "must contain history"),
        ("tiers", ["hot", "tape"], "'hot', 'history' or 'edge'"),
        ("ttl", "PT0S", "greater than 0"),
        ("finality_delay", "-PT5M", "greater than or equal to 0"),
        ("delivery", "carrier pigeon", "'async' or 'sync'"),
        ("colour", "blue", "unknown field 'colour'; expected one of name, "),
    ],
)
def test_mistake_is_reported_by_file_line_and_field(tmp_path, field, value, problem):
    path = write(tmp_path, **{field: value})
    with pytest.raises(DeclarationError) as refused:
        read_report(path)
    [mistake] = refused.value.mistakes
    assert (mistake.file, mistake.line) == (path, line_of(path, field))
    # A mistake in a list carries the position of the element too.
    assert f"{mistake.field}.".startswith(f"{dotted(field)}.")
    assert problem in mistake.problem
    assert str(refused.value).startswith(f"{path}:{mistake.line}: {dotted(field)}")


@pytest.mark.parametrize(
    ("text", "line", "field", "problem"),
    [
        (
            "fetch:\n  color: blue\n",
            2,
            "fetch.color",
            "unknown field 'color'; expected one of delivery, max_query_interval",
        ),
        ("freshness: PT5M\n", 1, "freshness", "must be a mapping of fields"),
        ("publish:\n", 1, "publish", "must be a mapping of fields"),
        ("filters:\n  color: blue\n", 2, "filters.color", "unknown field 'color'"),
    ],
)
def test_mistake_in_a_group_names_the_group(tmp_path, text, line, field, problem):
    path = write(tmp_path, expected_groups=None)
    before = len(path.read_text().splitlines())
    path.write_text(path.read_text() + text)
    with pytest.raises(DeclarationError) as refused:
        read_report(path)
    [mistake] = refused.value.mistakes
    assert (mistake.line, mistake.field) == (before + line, field)
    assert mistake.problem.startswith(problem)


def test_all_mistakes_of_a_group_are_reported(tmp_path):
    path = write(tmp_path, volume_metric=None, min_cell_count=5, edge_group_by=[], max_query_interval="PT30M")
    with pytest.raises(DeclarationError) as refused:
        read_report(path)
    found = {mistake.field for mistake in refused.value.mistakes}
    assert found == {"fetch.max_query_interval", "publish.edge_group_by", "publish.min_cell_count"}


@pytest.mark.parametrize("granularity", ["PT2H", "PT45M", "P1D"])
def test_granularity_must_divide_the_partition(tmp_path, granularity):
    path = write(tmp_path, granularity=granularity, partition="hour")
    with pytest.raises(DeclarationError, match=f"granularity {granularity} does not divide a partition") as refused:
        read_report(path)
    [mistake] = refused.value.mistakes
    assert (mistake.field, mistake.line) == ("granularity", line_of(path, "granularity"))


def test_granularity_must_divide_the_default_query_interval(tmp_path):
    problem = r"fetch\.max_query_interval: granularity P1W does not divide a query interval of P1D"
    with pytest.raises(DeclarationError, match=problem):
        read_report(write(tmp_path, granularity="P1W", partition="week"))


@pytest.mark.parametrize(
    ("partition", "window", "is_refused"),
    [("hour", "PT59M", True), ("hour", "PT1H", False), ("day", "PT23H", True), ("day", "P1D", False),
     ("week", "P6D", True), ("week", "P7D", False)],
)  # fmt: skip
def test_refetch_window_holds_a_whole_partition(tmp_path, partition, window, is_refused):
    path = write(tmp_path, partition=partition, refetch_window=window)
    if not is_refused:
        read_report(path)
        return
    with pytest.raises(DeclarationError, match=r"fetch\.refetch_window: is shorter than a partition") as refused:
        read_report(path)
    assert refused.value.mistakes[0].line == line_of(path, "refetch_window")


@pytest.mark.parametrize("field", ["name", "description", "platform", "query_type", "granularity", "group_by",
                                   "metrics", "partition", "start"])  # fmt: skip
def test_missing_field_is_reported(tmp_path, field):
    path = write(tmp_path, **{field: None, "volume_metric": None})
    with pytest.raises(DeclarationError) as refused:
        read_report(path)
    assert [(mistake.field, mistake.problem) for mistake in refused.value.mistakes] == [(field, "is missing")]


def test_mistake_inside_a_list_has_its_own_line(tmp_path):
    path = write(tmp_path)
    path.write_text(path.read_text() + "filters:\n  predicates:\n    - dimension: queueId\n      values: []\n")
    with pytest.raises(DeclarationError) as refused:
        read_report(path)
    [mistake] = refused.value.mistakes
    assert (mistake.field, mistake.line) == ("filters.predicates.0.values", line_of(path, "filters") + 3)


def test_mistakes_of_all_files_are_reported_together(tmp_path):
    write(tmp_path, "a.yaml", granularity="PT7M", time_zone="Nowhere")
    write(tmp_path, "b.yaml", name="b", metrics=None)
    with pytest.raises(DeclarationError) as refused:
        read_reports(tmp_path)
    found = {(mistake.file.name, mistake.field) for mistake in refused.value.mistakes}
    assert found == {("a.yaml", "granularity"), ("a.yaml", "time_zone"), ("b.yaml", "metrics")}


def test_duplicate_name_is_refused_with_both_files(tmp_path):
    first, second = write(tmp_path, "a.yaml"), write(tmp_path, "b.yml")
    with pytest.raises(DeclarationError, match="already declared") as refused:
        read_reports(tmp_path)
    assert str(first) in str(refused.value)
    assert refused.value.mistakes[0].file == second


@pytest.mark.parametrize(
    ("content", "line", "problem"),
    [
        (b"name: [queue_hour\n", 2, "is not YAML"),
        (b"name: a\n\tgroup_by: b\n", 2, "is not YAML"),
        (b"name: !!python/object:os.system {}\n", 1, "is not YAML"),
        (b"- a\n- b\n", 1, "must be a mapping"),
        (b"", 1, "must be a mapping"),
        (b"name: a\n\xff\xfe\x00", 2, "cannot be read: it is not UTF-8"),
        (b"name: a\nstart: \x07\n", 2, "is not YAML: it contains the character U+0007"),
    ],
)
def test_file_that_is_no_declaration_is_refused(tmp_path, content, line, problem):
    path = tmp_path / "wrong.yaml"
    path.write_bytes(content)
    with pytest.raises(DeclarationError) as refused:
        read_report(path)
    [mistake] = refused.value.mistakes
    assert (mistake.file, mistake.line) == (path, line)
    assert problem in mistake.problem


#: Values of the wrong kind as YAML spells them, by the kind that a field expects.
NO_TEXTS = ["null", "true", "no", "5", "1.5", "[a]", "{a: b}"]
NO_NUMBERS = ["true", "yes", '"5"', "soon", "[5]", "{a: 5}", "2026-01-01", ".nan", "0", "-3"]
NO_LENGTHS = [
    "15",
    "1.5",
    "0",
    "-15",
    "1:30",
    "true",
    '"15"',
    "15m",
    "00:15:00",
    "1 day",
    "P1M",
    "P1Y",
    "P",
    "PT",
    "[PT15M]",
]
NO_DATES = [
    "null",
    "2026-02-30",
    "2026-13-01",
    "2026-00-10",
    "2026-1-5",
    "0000-01-01",
    "0001-01-01",
    "9999-12-31",
    "20260101",
    "2026",
    "1767225600",
    "2026-01-01T00:00:00",
    "2026-01-01 12:00:00Z",
    "true",
    "[2026-01-01]",
    "!!timestamp 2026-02-30",
]
NO_NAMES = [
    "queueId",
    "null",
    "5",
    "[queueId, null]",
    "[null]",
    "[queueId, 5]",
    "[true]",
    "[[queueId]]",
    "[{a: b}]",
    '[""]',
]
WRONG_VALUES = {
    **dict.fromkeys(("name", "description", "platform", "query_type", "volume_metric", "time_zone"), NO_TEXTS),
    **{field: [*NO_TEXTS, "15", "PT0M"] for field in ("granularity", "fetch.max_query_interval")},
    **{
        field: [*NO_NUMBERS, "5.5", "1:30", "010", "0x10", "1_0", "99999999999"]
        for field in ("fetch.expected_groups", "freshness.prefetch_after_misses")
    },
    "freshness.drift_tolerance": [*NO_NUMBERS, ".inf"],
    **dict.fromkeys(
        (
            "fetch.refetch_window",
            "fetch.open_row_timeout",
            "freshness.ttl",
            "freshness.finality_delay",
            "freshness.recheck_delay",
            "freshness.stale_while_revalidate",
        ),
        NO_LENGTHS,
    ),
    "start": NO_DATES,
    **dict.fromkeys(("group_by", "metrics"), NO_NAMES),
    "partition": ["null", "5", "true", "month", "[day]"],
    "rows": ["5", "true", "[conversations]"],
    "owners": ["team:a", "null", "[null]", "[5]", "[workforce]", "['team:']"],
    "filters": ["null", "5", "[]", "voice", "{type: nor}", "{predicates: {}}", "{predicates: [{values: [a]}]}"],
    "publish.tiers": ["history", "null", "[history, 5]", "[history, null]", "[]"],
    "publish.min_cell_count": ["1", "true", '"5"'],
    **{field: ["null", "5", "PT5M", "[]"] for field in ("fetch", "freshness", "publish")},
}


def with_line(folder: Path, field: str, value: str) -> tuple[Path, int]:
    """Write a declaration in which one field, at the end of the file, has a value in YAML; return the field's line."""
    group, _, name = field.rpartition(".")
    lines = [
        line for line in write(folder, expected_groups=None).read_text().splitlines() if name != line.split(":")[0]
    ]
    lines += [f"{group}:", f"  {name}: {value}"] if group else [f"{name}: {value}"]
    (folder / "queue_hour.yaml").write_text("\n".join(lines))
    return folder / "queue_hour.yaml", len(lines)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (field, value)
        for field, values in WRONG_VALUES.items()
        for value in values
        if (field, value) not in {("volume_metric", "null")}
    ],
)
def test_value_of_the_wrong_kind_is_refused_at_its_field(tmp_path, field, value):
    path, line = with_line(tmp_path, field, value)
    with pytest.raises(DeclarationError) as refused:
        read_report(path)
    assert {(mistake.file, mistake.line) for mistake in refused.value.mistakes} == {(path, line)}
    assert {f"{mistake.field}."[: len(field) + 1] for mistake in refused.value.mistakes} == {f"{field}."}
    assert all(mistake.problem for mistake in refused.value.mistakes)


@pytest.mark.parametrize("value", ["PT15M", "P1W", "P2DT12H", "PT90S"])
def test_duration_of_fixed_length_is_read(tmp_path, value):
    path, _ = with_line(tmp_path, "freshness.ttl", value)
    assert read_report(path).freshness.ttl


@pytest.mark.parametrize(
    ("text", "line", "field", "first"),
    [
        ("granularity: PT30M\n", 14, "granularity", 5),
        ("'granularity': PT1H\n", 14, "granularity", 5),
        ("fetch:\n  delivery: sync\n", 14, "fetch", 12),
        ("publish:\n  tiers: [history]\n  tiers: [history, hot]\n", 16, "publish.tiers", 15),
        (
            "filters:\n  predicates:\n  - dimension: a\n    values: [b]\n    dimension: c\n",
            18,
            "filters.predicates.0.dimension",
            16,
        ),
    ],
)
def test_key_given_twice_is_refused_at_its_second_place(tmp_path, text, line, field, first):
    path = write(tmp_path)
    path.write_text(path.read_text() + text)
    with pytest.raises(DeclarationError) as refused:
        read_report(path)
    [mistake] = refused.value.mistakes
    assert (mistake.line, mistake.field) == (line, field)
    assert mistake.problem == f"is given twice, first on line {first}: take one out"


def test_all_mistakes_of_a_file_are_reported_at_once(tmp_path):
    path = write(tmp_path, start="2026-02-30", group_by=["queueId", None], colour="blue", ttl=15)
    path.write_text(path.read_text() + "name: other\nplatform: !!int soon\n")
    with pytest.raises(DeclarationError) as refused:
        read_report(path)
    found = {mistake.field for mistake in refused.value.mistakes}
    assert found == {"start", "group_by.1", "colour", "freshness.ttl", "name", "platform"}


#: Each line holds the one before ten times.
ALIASES = "".join(f"  {name}: &{name} [{','.join([f'*{before}'] * 10)}]\n" for before, name in pairwise("abcdefghijkl"))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("owners: &all [*all]\n", "contains itself"),
        ("? [a]\n: b\n", "a key must be the name of a field"),
        ("owners: " + "[" * 5000 + "]" * 5000, "nested too deep"),
        ("rows: *unknown\n", "is not YAML"),
        ("filters:\n  a: &a [x,x,x,x,x,x,x,x,x,x]\n" + ALIASES, "makes more than 100,000 values"),
        ("<<: 5\n", "is not YAML"),
        ("owners: !!binary 5\n", "is not supported"),
        ("---\nname: other\n", "is not YAML"),
    ],
)
def test_unusual_yaml_is_refused_without_a_traceback(tmp_path, text, problem):
    path = write(tmp_path)
    path.write_text(path.read_text() + text)
    with pytest.raises(DeclarationError, match=problem):
        read_report(path)


def test_shared_content_is_read_as_if_written_out(tmp_path):
    path = write(tmp_path, metrics=None)
    path.write_text(path.read_text() + "metrics: &names [offered, answered]\nowners: []\nfilters: {<<: {type: or}}\n")
    assert read_report(path).metrics == ("answered", "offered")


@pytest.mark.parametrize(
    ("zone", "start", "granularity", "change"),
    [
        ("Australia/Lord_Howe", "2026-01-01", "PT1H", 30),
        ("Australia/LHI", "2026-01-01", "PT1H", 30),
        ("America/Caracas", "2015-01-01", "PT1H", 30),
        ("Asia/Pyongyang", "2016-01-01", "PT1H", 30),
    ],
)
def test_hourly_partitions_need_clocks_that_change_by_whole_buckets(tmp_path, zone, start, granularity, change):
    path = write(tmp_path, time_zone=zone, start=start, granularity=granularity, partition="hour")
    with pytest.raises(DeclarationError, match=f"change by {change} minutes") as refused:
        read_report(path)
    assert [mistake.field for mistake in refused.value.mistakes] == ["granularity"]


@pytest.mark.parametrize(
    ("zone", "start", "granularity", "partition"),
    [
        ("Australia/Lord_Howe", "2026-01-01", "PT30M", "hour"),
        ("Australia/Lord_Howe", "2026-01-01", "PT1H", "day"),
        ("Asia/Kolkata", "2026-01-01", "PT1H", "hour"),
        ("America/St_Johns", "2026-01-01", "PT1H", "hour"),
        ("America/Caracas", "2017-01-01", "PT1H", "hour"),
    ],
)
def test_hourly_partitions_follow_clocks_that_change_by_whole_buckets(tmp_path, zone, start, granularity, partition):
    path = write(tmp_path, time_zone=zone, start=start, granularity=granularity, partition=partition)
    assert read_report(path).time_zone == zone


@pytest.mark.parametrize(
    "zone", ["localtime", "posixrules", "Factory", "right/UTC", "posix/Europe/Berlin", "../UTC", "europe/berlin"]
)
def test_zone_that_is_no_place_of_the_database_is_refused(tmp_path, zone):
    with pytest.raises(DeclarationError, match="is not in the IANA database") as refused:
        read_report(write(tmp_path, time_zone=zone))
    assert [mistake.field for mistake in refused.value.mistakes] == ["time_zone"]


def test_empty_or_missing_folder_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(DeclarationError, match="contains no report declarations"):
            read_reports(folder)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"platform": "avaya"}, "platform"),
        ({"delivery": "sync"}, "delivery"),
        ({"granularity": "PT2H"}, "granularity"),
    ],
)
def test_mistake_by_vendor_rules_has_its_line(tmp_path, changes, field):
    path = write(tmp_path, **changes)
    with pytest.raises(DeclarationError) as refused:
        Declarations().read(path)
    [mistake] = refused.value.mistakes
    assert (mistake.field, mistake.line) == (dotted(field), line_of(path, field))


def test_unknown_report_error_lists_the_declared_ones(tmp_path):
    write(tmp_path)
    reports = read_reports(tmp_path)
    assert isinstance(find_report(reports, "queue_hour"), Report)
    with pytest.raises(UnknownReport, match="no report 'queue_day'; declared reports: queue_hour"):
        find_report(reports, "queue_day")


@pytest.mark.parametrize("length", ["P365D", "P53W", "P400D", "PT36H", "P9000DT1S"])
def test_declaration_is_read_back_from_its_json(length):
    report = declared(open_row_timeout=length, refetch_window=length, ttl=length, finality_delay=length)
    assert Report.model_validate(report.model_dump(mode="json")) == report
    assert Report.model_validate_json(report.model_dump_json()) == report
