"""Tests of incremental JSON reads: they return the same as reading the whole page at once."""

import json
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_pipeline.errors import SchemaMismatch
from cache_pipeline.vendors.json_body import read_incrementally, read_object

LIST = "conversations"
_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
_entries = st.lists(st.dictionaries(st.text(max_size=5), _values, max_size=3), max_size=4)
_others = st.dictionaries(st.text(max_size=6).filter(lambda name: name != LIST), _values, max_size=4)


def _response(content: bytes) -> httpx.Response:
    return httpx.Response(200, content=content, request=httpx.Request("GET", "https://vendor.example/results"))


def _read_parts(content: bytes) -> tuple[list[Any], dict[str, Any]]:
    entries: list[Any] = []
    return entries, dict(read_incrementally(_response(content), LIST, entries.append))


@given(_others, _entries, st.integers(0, 4), st.sampled_from([None, 1, "\t"]), st.booleans())
def test_incremental_read_equals_whole_read(others, entries, position, indent, ascii_only):
    names = list(others)
    names.insert(min(position, len(names)), LIST)
    page = {name: entries if name == LIST else others[name] for name in names}
    content = json.dumps(page, indent=indent, ensure_ascii=ascii_only).encode()
    assert _read_parts(content) == (entries, others)


@given(_entries, st.data())
def test_truncated_page_is_refused(entries, data):
    content = json.dumps({"cursor": "c", LIST: entries}).encode()
    cut = data.draw(st.integers(0, len(content) - 1))
    with pytest.raises(SchemaMismatch, match="not JSON"):
        _read_parts(content[:cut])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{} {}",
        b'{"a": 1,}',
        b'{"conversations": [{},]}',
        b'{"conversations": [{} {}]}',
        b'{"a" 1}',
        b"{1: 2}",
        b'{"a": \xff}',
        b'{"a": ' + b"[" * 100_000 + b"}",
        b'{"conversations": [' + b"[" * 100_000,
    ],
)
def test_invalid_object_is_refused_by_both_reads(content):
    for read in (_read_parts, lambda content: read_object(_response(content))):
        with pytest.raises(SchemaMismatch):
            read(content)


@pytest.mark.parametrize("entry", ["1", "null", '"text"', "[]"])
def test_entry_that_is_not_an_object_is_refused(entry):
    with pytest.raises(SchemaMismatch, match="where an object was expected"):
        _read_parts(f'{{"{LIST}": [{{}}, {entry}]}}'.encode())


def test_null_list_is_returned_with_the_rest():
    assert _read_parts(b'{"conversations": null}') == ([], {"conversations": None})
