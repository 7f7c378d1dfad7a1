"""Tests of the formats of `cache-pipeline query`: equal figures in each, and text that spreadsheets understand."""

import csv
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cache_pipeline.cli.output import CsvOptions, OutputFormat, render_text
from cache_pipeline_tests.cli.test_plan import DAY, run_cli  # noqa: F401 - the fixture

DOCUMENT = {
    "report": "queue_day",
    "interval": "2026-10-24T22:00:00Z/2026-10-25T23:00:00Z",
    "timeZone": "Europe/Berlin",
    "columns": ["interval_start", "interval_end", "queue_id", "handle_ms"],
    "rows": [
        ["2026-10-24T22:00:00Z", "2026-10-24T23:00:00Z", 'Zürich, "1"', 156622.0],
        ["2026-10-25T00:00:00Z", "2026-10-25T01:00:00Z", None, 0.5],
        ["2026-10-25T01:00:00Z", "2026-10-25T02:00:00Z", "a", None],
    ],
}


def read_csv(**options):
    text = render_text(OutputFormat.csv, DOCUMENT, CsvOptions(**options), indent=False)
    return text, list(csv.reader(io.StringIO(text.removeprefix("\ufeff"))))


def test_csv_is_exact_by_default():
    text, rows = read_csv()
    assert not text.startswith("\ufeff")
    assert rows[1] == ["2026-10-24T22:00:00Z", "2026-10-24T23:00:00Z", 'Zürich, "1"', "156622.0"]
    assert rows[2][2:] == ["", "0.5"]


def test_csv_options_suit_a_spreadsheet():
    text, rows = read_csv(local_time=True, bom=True, whole_numbers=True)
    assert text.startswith("\ufeffinterval_start,")
    assert rows[1] == ["2026-10-25 00:00:00", "2026-10-25 01:00:00", 'Zürich, "1"', "156622"]
    # The clock shows this hour twice in autumn.
    assert [row[0] for row in rows[2:]] == ["2026-10-25 02:00:00", "2026-10-25 02:00:00"]
    assert rows[2][3] == "0.5"
    assert rows[3][3] == ""


@pytest.mark.parametrize("more", [{}, {"whole_numbers": True, "local_time": True}])
def test_safe_text_disarms_formulas(more):
    document = {**DOCUMENT, "rows": [[*DOCUMENT["rows"][0][:2], "=1+1", -5.0], [*DOCUMENT["rows"][1][:2], "a", -0.5]]}
    for is_safe, expected in ((False, "=1+1"), (True, "'=1+1")):
        text = render_text(OutputFormat.csv, document, CsvOptions(safe_text=is_safe, **more), indent=False)
        rows = list(csv.reader(io.StringIO(text)))
        assert [row[2] for row in rows[1:]] == [expected, "a"]
        assert [float(row[3]) for row in rows[1:]] == [-5, -0.5]


def test_json_is_compact_except_on_a_terminal():
    assert "\n" not in render_text(OutputFormat.json, DOCUMENT, CsvOptions(), indent=False).rstrip("\n")
    assert "\n " in render_text(OutputFormat.json, DOCUMENT, CsvOptions(), indent=True)


def test_every_format_has_the_same_rows(run_cli, tmp_path, monkeypatch):  # noqa: F811
    document = json.loads(run_cli("query", "quarters", DAY))
    assert document["rows"]
    files = {}
    for name in ("csv", "json", "jsonl", "parquet", "arrow"):
        files[name] = tmp_path / f"answer.{name}"
        assert run_cli("query", "quarters", DAY, "-o", str(files[name])) == ""
    assert json.loads(files["json"].read_text()) == document
    records = [dict(zip(document["columns"], row, strict=True)) for row in document["rows"]]
    assert [json.loads(line) for line in files["jsonl"].read_text().splitlines()] == records
    with files["csv"].open(newline="") as text:
        assert len(list(csv.DictReader(text))) == len(records)
    parquet = pq.read_table(files["parquet"])
    assert parquet.equals(pa.ipc.open_stream(files["arrow"].read_bytes()).read_all())
    assert parquet["offered"].to_pylist() == [record["offered"] for record in records]
    assert "quarters 2026-01-04T23:00:00Z" in run_cli("query", "quarters", DAY, "--format", "table")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-o", "answer.xlsx"], "no suffix that names a format"),
        (["-o", "/no/such/folder/answer.csv"], "answer.csv cannot be written: No such file"),
        (["--format", "xml"], "'xml' is not one of 'table', 'csv'"),
        (["--format", "json", "--bom"], "are for CSV"),
    ],
)
def test_unusable_output_is_refused(run_cli, capsys, arguments, expected):  # noqa: F811
    with pytest.raises(SystemExit) as ended:
        run_cli("query", "quarters", DAY, *arguments)
    assert ended.value.code == 2
    assert expected in capsys.readouterr().err


def test_binary_format_is_refused_on_a_terminal(run_cli, capsys, monkeypatch):  # noqa: F811
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    with pytest.raises(SystemExit):
        run_cli("query", "quarters", DAY, "--format", "parquet")
    assert "a terminal cannot show parquet: add -o FILE" in capsys.readouterr().err


def test_rows_of_the_present_have_no_local_time():
    document = {**DOCUMENT, "rows": [*DOCUMENT["rows"], [None, None, "a", None]]}
    text = render_text(OutputFormat.csv, document, CsvOptions(local_time=True), indent=False)
    assert list(csv.reader(io.StringIO(text)))[-1] == ["", "", "a", ""]
