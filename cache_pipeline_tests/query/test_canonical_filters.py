"""Filters are equal exactly when they mean the same, however they are nested."""

from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cache_pipeline.errors import QueryError
from cache_pipeline.query.filters import Filter

DIMENSIONS = ("a", "b", "c")
#: Two values that filters speak of, one that none does, and having none.
VALUES = ("x", "y", "other", None)
ROWS = [dict(zip(DIMENSIONS, values, strict=True)) for values in product(VALUES, repeat=3)]

predicates = st.fixed_dictionaries(
    {
        "dimension": st.sampled_from(DIMENSIONS),
        "operator": st.sampled_from(["in", "notIn"]),
        "values": st.lists(st.sampled_from(["x", "y", None]), min_size=1, max_size=4),
    }
) | st.fixed_dictionaries(
    {"dimension": st.sampled_from(DIMENSIONS), "operator": st.sampled_from(["exists", "notExists"])}
)
kinds = st.sampled_from(["and", "or", "not"])


def clauses_of(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    some = st.lists(inner, min_size=1, max_size=3)
    return st.fixed_dictionaries({"type": kinds, "clauses": some, "predicates": st.lists(predicates, max_size=2)})


flat = st.fixed_dictionaries({"type": kinds, "predicates": st.lists(predicates, min_size=1, max_size=4)})
filters = st.recursive(flat, clauses_of, max_leaves=5)


def holds(said: dict[str, Any], row: dict[str, Any]) -> bool:
    """What a filter means, read word by word."""
    if "dimension" in said:
        value = row[said["dimension"]]
        if said["operator"] in ("exists", "notExists"):
            return (value is None) == (said["operator"] == "notExists")
        return (value in said["values"]) == (said["operator"] == "in")
    parts = [holds(each, row) for each in [*said.get("predicates", []), *said.get("clauses", [])]]
    return {"and": all, "or": any, "not": lambda found: not any(found)}[said["type"]](parts)


def meaning(said: dict[str, Any]) -> tuple[bool, ...]:
    return tuple(holds(said, row) for row in ROWS)


def read(said: dict[str, Any]) -> Filter | None:
    """The filter, or None where it is told that no row can match."""
    try:
        return Filter.parse(said)
    except ValidationError as error:
        if "contradicts itself" not in str(error):
            raise
        return None


@given(filters)
def test_the_canonical_form_means_what_was_written(said):
    found = read(said)
    if found is None:
        assert not any(meaning(said))
        return
    assert meaning(said) == tuple(
        any(all((row[name] in v.values) != v.is_exclusion for name, v in box.items()) for box in found.conjunctions)
        for row in ROWS
    )


@given(filters, filters)
def test_two_filters_are_one_exactly_when_they_mean_the_same(one, other):
    assert (read(one) == read(other)) == (meaning(one) == meaning(other))


@given(filters)
def test_what_is_canonical_stays_as_it_is(said):
    found = read(said)
    if found is not None:
        again = Filter.parse(found.declaration.model_dump(mode="json"))
        assert again == found
        assert again.canonical_form == found.canonical_form
        assert Filter.from_conjunctions(found.conjunctions) == found


@given(filters, filters)
def test_both_of_two_filters_are_their_conjunction(one, other):
    left, right = read(one), read(other)
    if left is None or right is None:
        return
    both = read({"type": "and", "clauses": [one, other]})
    if both is None:
        with pytest.raises(QueryError, match="contradicts"):
            left.intersect(right)
    else:
        assert left.intersect(right) == both == right.intersect(left)


def said(dimension: str, *values: Any, operator: str = "in") -> dict[str, Any]:
    return {"dimension": dimension, "operator": operator, "values": list(values)}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"type": "or", "predicates": [said("q", "a"), said("q", "b")]}, {"predicates": [said("q", "b", "a", "a")]}),
        ({"predicates": [said("q", 1, 2.0, True)]}, {"predicates": [said("q", "1", "2", "true")]}),
        ({"type": "not", "predicates": [said("q", "a", operator="notIn")]}, {"predicates": [said("q", "a")]}),
        ({"type": "or", "predicates": [said("q", "a"), said("q", "a", operator="notIn")]}, {}),
        ({"type": "or", "predicates": [said("q", n) for n in range(200)]}, {"predicates": [said("q", *range(200))]}),
        ({"predicates": [said("q", "a", "b"), said("q", "b", "c")]}, {"predicates": [said("q", "b")]}),
        (
            {"type": "or", "clauses": [{"predicates": [said("q", "a"), said("m", "v")]}, {"predicates": [said("q", "a")]}]},
            {"predicates": [said("q", "a")]},
        ),
    ],
)  # fmt: skip
def test_spellings_of_one_filter(one, other):
    assert Filter.parse(one) == Filter.parse(other)


def deep(levels: int) -> dict[str, Any]:
    return {"predicates": [said("q", "a")]} if levels == 0 else {"clauses": [deep(levels - 1)]}


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"predicates": [said("q", "a"), said("q", "b")]}, "contradicts itself"),
        ({"predicates": [said("q", "a\0")]}, "NUL"),
        ({"predicates": [said("q\0", "a")]}, "NUL"),
        ({"predicates": [said("q", float("nan"))]}, "NaN"),
        ({"predicates": [said("q", ["a"])]}, "not lists"),
        ({"predicates": [said("q", "a" * 1000)]}, "1000 characters long"),
        ({"predicates": [said("q", *range(2000))]}, "at most 1000"),
        ({"clauses": [{"type": "and"}]}, "has no meaning"),
        (deep(200), "8 deep"),
        (
            {"type": "and", "clauses": [{"type": "or", "predicates": [said(f"a{n}", "x"), said(f"b{n}", "x")]} for n in range(12)]},
            "more than 64 alternatives",
        ),
    ],
)  # fmt: skip
def test_what_is_no_filter_is_told(wrong, told):
    with pytest.raises((ValidationError, QueryError), match=told):
        Filter.parse(wrong)
