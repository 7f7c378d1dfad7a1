"""The measures of a report whose columns are known: which can be computed, and computing them for rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cache_pipeline.errors import InvalidQuery
from cache_pipeline.lazy_imports import pa, pc
from cache_pipeline.query.measures import Measure, Measures, Sum, describe_measure
from cache_pipeline.query.schema import Column, ColumnKind, Fold


def measures_of(measures: Measures, columns: Sequence[Column]) -> dict[str, Measure]:
    """Return those measures that can be computed from some columns."""
    known = {column.name for column in columns}
    return {name: each for name, each in measures.items() if each is not None and known.issuperset(each.columns)}


def choose_measures(names: Sequence[str], measures: Measures, columns: Sequence[Column]) -> dict[str, Measure]:
    """Return the named measures of a query.

    Raises:
        InvalidQuery: The report has no measure of this name, or the query leaves out a column that it needs.
    """
    possible, declared = measures_of(measures, columns), [name for name, each in measures.items() if each is not None]
    for name in names:
        if name not in declared:
            raise InvalidQuery(
                "measures", f"unknown measure {name[:80]!r}; expected some of {', '.join(declared) or 'none'}"
            )
        if name not in possible:
            needed = measures[name]
            lacking = set(needed.columns if needed else ()) - {column.name for column in columns}
            raise InvalidQuery(
                "measures",
                f"{name} needs {', '.join(sorted(lacking))}: leave out `metrics`, or add the metrics of these",
            )
    return {name: possible[name] for name in dict.fromkeys(names)}


def with_default_measures(measures: Measures, defaults: Mapping[str, Measure], columns: Sequence[Column]) -> Measures:
    """Return the measures of a report: those of its vendor that its columns allow, and those it declares."""
    known = {column.name for column in columns}
    return {**{name: each for name, each in defaults.items() if known.issuperset(each.columns)}, **measures}


def find_measure_problems(measures: Measures, columns: Sequence[Column]) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with the measures of a report with these columns, as (dotted field, problem)."""
    summed = [column.name for column in columns if column.fold is Fold.sum]
    known = {column.name: column for column in columns}
    for name, measure in measures.items():
        if name in known and measure is not None and measure.formula != name:
            yield f"measures.{name}", f"would be a second column {name!r}: give it another name"
        for column in measure.columns if measure else ():
            if column not in known:
                yield f"measures.{name}", f"unknown column {column!r}; expected some of {', '.join(summed) or 'none'}"
            elif column not in summed:
                yield (
                    f"measures.{name}",
                    f"{column} cannot be added up over buckets and groups; expected some of {', '.join(summed)}",
                )


def measure_columns(measures: Mapping[str, Measure]) -> tuple[Column, ...]:
    """Return the columns that `add_measures` adds."""
    return tuple(
        Column(name, ColumnKind.number, nullable=True, description=describe_measure(measure))
        for name, measure in measures.items()
        if measure.formula != name
    )


def add_measures(rows: pa.Table, measures: Mapping[str, Measure]) -> pa.Table:
    """Append a column of numbers for each measure; the rows must have the columns that they need."""
    for name, measure in measures.items():
        if name in rows.schema.names:
            continue
        value = _arrow_total(rows, measure.over)
        if measure.under:
            under = _arrow_total(rows, measure.under)
            # Zero becomes null, so that nothing is divided by it.
            is_zero = pc.equal(under, pa.scalar(0.0))
            value = pc.divide(value, pc.if_else(is_zero, pa.scalar(None, pa.float64()), under))
        rows = rows.append_column(pa.field(name, pa.float64()), value)
    return rows


def _arrow_total(rows: pa.Table, terms: Sum) -> Any:
    total: Any = None
    for name, sign in terms:
        value = pc.multiply(pc.cast(rows.column(name), pa.float64()), float(sign))
        total = value if total is None else pc.add(total, value)
    return total
