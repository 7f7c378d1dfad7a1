"""Tests of measures: formulas, their values, which of them a report has, and the documentation of the vendors' own."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_pipeline.bootstrap.reports import Declarations
from cache_pipeline.errors import InvalidQuery, QueryError
from cache_pipeline.query.declarations import DeclarationError
from cache_pipeline.query.measure_columns import add_measures, choose_measures, find_measure_problems
from cache_pipeline.query.measures import Measure, parse_formula
from cache_pipeline.query.schema import Column, ColumnKind, Fold
from cache_pipeline.vendors.registry import find_vendor, vendor_names

COLUMNS = (
    Column("queue_id", ColumnKind.dimension, nullable=True),
    Column("n_offered", ColumnKind.integer, fold=Fold.sum),
    Column("t_abandon_count", ColumnKind.integer, fold=Fold.sum),
    Column("t_abandon_max", ColumnKind.number, nullable=True, fold=Fold.max),
)
RATE = Measure(formula="t_abandon_count / n_offered")
DECLARATION = """\
name: queue_hour
description: Figures by queue, by hour
platform: genesys
query_type: conversations
granularity: PT1H
group_by: [queueId]
metrics: [nOffered, tAbandon, tHandle]
partition: day
start: 2026-01-01
"""


@pytest.mark.parametrize(
    ("formula", "parsed"),
    [
        ("a", ((("a", 1),), ())),
        (" a + b_2 - c ", ((("a", 1), ("b_2", 1), ("c", -1)), ())),
        ("-a + b", ((("a", -1), ("b", 1)), ())),
        ("a / b", ((("a", 1),), (("b", 1),))),
        ("(a - b) / (c + d)", ((("a", 1), ("b", -1)), (("c", 1), ("d", 1)))),
    ],
)
def test_formula_is_a_sum_or_a_quotient_of_sums(formula: str, parsed: Any):
    assert parse_formula(formula) == parsed


@pytest.mark.parametrize(
    "formula",
    [
        "",
        " ",
        "a b",
        "a +",
        "a / b / c",
        "a - b / c",
        "a / b + c",
        "a * b",
        "2 * a",
        "(a",
        "a)",
        "()",
        "a / ",
        "/ a",
        "a;b",
        "'a'",
    ],
)
def test_other_formulas_are_refused(formula: str):
    with pytest.raises(QueryError):
        parse_formula(formula)


@given(
    over=st.lists(st.integers(-1000, 1000), min_size=1, max_size=3),
    under=st.integers(-3, 3),
)
def test_rows_and_sums_have_the_same_measures(over: list[int], under: int):
    measure = Measure(formula="a / b")
    rows = pa.table({"a": over, "b": [under] * len(over)})
    values = add_measures(rows, {"m": measure})["m"].to_pylist()
    assert values == [measure.value({"a": each, "b": under}) for each in over]
    assert (values[0] is None) == (under == 0)


def test_unknown_figure_makes_the_measure_unknown():
    measure = Measure(formula="(a + b) / c")
    assert measure.value({"a": 1, "b": None, "c": 2}) is None
    assert add_measures(pa.table({"a": [1], "b": pa.array([None], pa.int64()), "c": [2]}), {"m": measure})[
        "m"
    ].to_pylist() == [None]


@pytest.mark.parametrize(
    ("name", "measure", "problem"),
    [
        (
            "rate",
            Measure(formula="t_handle_sum / n_offered"),
            "unknown column 't_handle_sum'; expected some of n_offered",
        ),
        ("rate", Measure(formula="t_abandon_max / n_offered"), "t_abandon_max cannot be added up"),
        ("n_offered", RATE, "would be a second column"),
    ],
)
def test_measure_that_the_columns_do_not_allow_is_a_problem(name: str, measure: Measure, problem: str):
    [(field, found)] = find_measure_problems({name: measure}, COLUMNS)
    assert field == f"measures.{name}"
    assert problem in found


def test_query_without_the_columns_of_a_measure_is_refused():
    assert choose_measures(["rate"], {"rate": RATE}, COLUMNS) == {"rate": RATE}
    with pytest.raises(InvalidQuery, match="rate needs t_abandon_count"):
        choose_measures(["rate"], {"rate": RATE}, COLUMNS[:2])
    with pytest.raises(InvalidQuery, match="unknown measure 'other'; expected some of rate"):
        choose_measures(["other"], {"rate": RATE}, COLUMNS)


def test_declaration_adds_to_the_measures_of_its_vendor(tmp_path: Path):
    file = tmp_path / "queue_hour.yaml"
    file.write_text(
        f"{DECLARATION}measures:\n  per_offered: t_handle_sum / n_offered\n  abandon_rate: null\n"
        "  average_handle_time: {formula: t_handle_sum / n_offered, kind: duration}\n"
    )
    measures = Declarations().read(file).measures
    assert set(measures) == {"offered", "handled", "abandoned", "average_handle_time", "abandon_rate", "per_offered"}
    assert measures["abandon_rate"] is None
    assert measures["average_handle_time"] == Measure(formula="t_handle_sum / n_offered", kind="duration")


@pytest.mark.parametrize(
    ("line", "place", "problem"),
    [
        ("  rate: n_unknown / n_offered", "measures.rate", "unknown column 'n_unknown'"),
        ("  rate: n_offered //", "measures.rate", "divides more than once"),
        ("  rate: {formula: n_offered, unit: s}", "measures.rate.unit", "unknown field 'unit'"),
        ("  Rate: n_offered", "measures.Rate", "pattern"),
        ("  n_offered: t_handle_sum / n_offered", "measures.n_offered", "second column"),
    ],
)
def test_wrong_measure_is_reported_by_file_line_and_field(tmp_path: Path, line: str, place: str, problem: str):
    file = tmp_path / "queue_hour.yaml"
    file.write_text(f"{DECLARATION}measures:\n{line}\n")
    with pytest.raises(DeclarationError) as caught:
        Declarations().read(file)
    [mistake] = caught.value.mistakes
    assert mistake.line == 11
    assert mistake.field.startswith(place)
    assert problem in mistake.problem


@pytest.mark.parametrize("vendor", vendor_names())
def test_every_measure_of_a_vendor_is_documented(vendor: str):
    page = (Path(__file__).parents[2] / "docs" / "measures.md").read_text()
    section = page.split(f"## {vendor}\n")[1].split("\n## ")[0]
    for name, measure in find_vendor(vendor).measures.items():
        assert f"| `{name}` | `{measure.formula}` |" in section, f"docs/measures.md lacks {name} of {vendor}"
