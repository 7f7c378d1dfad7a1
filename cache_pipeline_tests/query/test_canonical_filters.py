"""Filters are equal exactly if they match the same rows, however they are nested."""

from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cache_pipeline.errors import QueryError
from cache_pipeline.query.filters import Filter

DIMENSIONS = ("a", "b", "c")
#: Two values that filters name, one that no filter names, and a missing value.
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


def matches(declaration: dict[str, Any], row: dict[str, Any]) -> bool:
    """Evaluate a declared filter literally."""
    if "dimension" in declaration:
        value = row[declaration["dimension"]]
        if declaration["operator"] in ("exists", "notExists"):
            return (value is None) == (declaration["operator"] == "notExists")
        return (value in declaration["values"]) == (declaration["operator"] == "in")
    parts = [matches(each, row) for each in [*declaration.get("predicates", []), *declaration.get("clauses", [])]]
    return {"and": all, "or": any, "not": lambda found: not any(found)}[declaration["type"]](parts)


def matching_rows(declaration: dict[str, Any]) -> tuple[bool, ...]:
    return tuple(matches(declaration, row) for row in ROWS)


def parse(declaration: dict[str, Any]) -> Filter | None:
    """Parse a filter; return None if it is refused because no row can match."""
    try:
        return Filter.parse(declaration)
    except ValidationError as error:
        if "contradicts itself" not in str(error):
            raise
        return None


@given(filters)
def test_canonical_form_matches_the_same_rows(declaration):
    found = parse(declaration)
    if found is None:
        assert not any(matching_rows(declaration))
        return
    assert matching_rows(declaration) == tuple(
        any(
            all((row[name] in v.values) != v.is_exclusion for name, v in conjunction.items())
            for conjunction in found.conjunctions
        )
        for row in ROWS
    )


@given(filters, filters)
def test_filters_are_equal_if_they_match_the_same_rows(one, other):
    assert (parse(one) == parse(other)) == (matching_rows(one) == matching_rows(other))


@given(filters)
def test_canonical_form_is_stable(declaration):
    found = parse(declaration)
    if found is not None:
        reparsed = Filter.parse(found.declaration.model_dump(mode="json"))
        assert reparsed == found
        assert reparsed.canonical_form == found.canonical_form
        assert Filter.from_conjunctions(found.conjunctions) == found


@given(filters, filters)
def test_intersection_equals_the_and_of_filters(one, other):
    left, right = parse(one), parse(other)
    if left is None or right is None:
        return
    both = parse({"type": "and", "clauses": [one, other]})
    if both is None:
        with pytest.raises(QueryError, match="contradicts"):
            left.intersect(right)
    else:
        assert left.intersect(right) == both == right.intersect(left)


def predicate(dimension: str, *values: Any, operator: str = "in") -> dict[str, Any]:
    return {"dimension": dimension, "operator": operator, "values": list(values)}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"type": "or", "predicates": [predicate("q", "a"), predicate("q", "b")]}, {"predicates": [predicate("q", "b", "a", "a")]}),
        ({"predicates": [predicate("q", 1, 2.0, True)]}, {"predicates": [predicate("q", "1", "2", "true")]}),
        ({"type": "not", "predicates": [predicate("q", "a", operator="notIn")]}, {"predicates": [predicate("q", "a")]}),
        ({"type": "or", "predicates": [predicate("q", "a"), predicate("q", "a", operator="notIn")]}, {}),
        ({"type": "or", "predicates": [predicate("q", n) for n in range(200)]}, {"predicates": [predicate("q", *range(200))]}),
        ({"predicates": [predicate("q", "a", "b"), predicate("q", "b", "c")]}, {"predicates": [predicate("q", "b")]}),
        (
            {"type": "or", "clauses": [{"predicates": [predicate("q", "a"), predicate("m", "v")]}, {"predicates": [predicate("q", "a")]}]},
            {"predicates": [predicate("q", "a")]},
        ),
    ],
)  # fmt: skip
def test_spellings_of_one_filter_are_equal(one, other):
    assert Filter.parse(one) == Filter.parse(other)


def nested(levels: int) -> dict[str, Any]:
    return {"predicates": [predicate("q", "a")]} if levels == 0 else {"clauses": [nested(levels - 1)]}


def sixty_alternatives():
    alternatives = [{"predicates": [predicate(f"a{n}", "x"), predicate(f"b{n}", "x")]} for n in range(60)]
    return {"type": "or", "clauses": alternatives}


def test_sixty_alternatives_are_allowed():
    assert len(parse(sixty_alternatives()).conjunctions) == 60


@pytest.mark.parametrize(
    ("invalid", "message"),
    [
        ({"predicates": [predicate("q", "a"), predicate("q", "b")]}, "contradicts itself"),
        ({"predicates": [predicate("q", "a\0")]}, "NUL"),
        ({"predicates": [predicate("q\0", "a")]}, "NUL"),
        ({"predicates": [predicate("q", float("nan"))]}, "NaN"),
        ({"predicates": [predicate("q", ["a"])]}, "not lists"),
        ({"predicates": [predicate("q", "a" * 1000)]}, "1000 characters long"),
        ({"predicates": [predicate("q", *range(2000))]}, "at most 1000"),
        ({"clauses": [{"type": "and"}]}, "has no meaning"),
        (nested(200), "8 deep"),
        (
            {"type": "and", "clauses": [{"type": "or", "predicates": [predicate(f"a{n}", "x"), predicate(f"b{n}", "x")]} for n in range(12)]},
            "more than 64 alternatives",
        ),
        # Its result is small, but getting there takes a product of sixty by sixty alternatives for each clause.
        ({"type": "and", "clauses": [sixty_alternatives()] * 8}, "too complex"),
    ],
)  # fmt: skip
def test_invalid_filter_is_refused(invalid, message):
    with pytest.raises((ValidationError, QueryError), match=message):
        Filter.parse(invalid)


@given(filters, filters)
def test_subset_matches_no_row_that_the_other_leaves_out(one, other):
    narrow, wide = parse(one), parse(other)
    if narrow is None or wide is None:
        return
    rows = zip(matching_rows(one), matching_rows(other), strict=True)
    assert narrow.is_subset_of(wide) == all(in_other for in_one, in_other in rows if in_one)
