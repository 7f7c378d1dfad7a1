"""A page is read one entry at a time, and says no more and no less than if it were read whole."""

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


def _apart(content: bytes) -> tuple[list[Any], dict[str, Any]]:
    taken: list[Any] = []
    return taken, dict(read_incrementally(_response(content), LIST, taken.append))


@given(_others, _entries, st.integers(0, 4), st.sampled_from([None, 1, "\t"]), st.booleans())
def test_a_page_says_the_same_read_apart_and_whole(others, entries, place, indent, ascii_only):
    names = list(others)
    names.insert(min(place, len(names)), LIST)
    page = {name: entries if name == LIST else others[name] for name in names}
    content = json.dumps(page, indent=indent, ensure_ascii=ascii_only).encode()
    assert _apart(content) == (entries, others)


@given(_entries, st.data())
def test_a_page_that_is_cut_off_anywhere_is_refused(entries, data):
    content = json.dumps({"cursor": "c", LIST: entries}).encode()
    cut = data.draw(st.integers(0, len(content) - 1))
    with pytest.raises(SchemaMismatch, match="not JSON"):
        _apart(content[:cut])


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
def test_what_is_no_json_object_is_refused_as_when_read_whole(content):
    for read in (_apart, lambda content: read_object(_response(content))):
        with pytest.raises(SchemaMismatch):
            read(content)


@pytest.mark.parametrize("entry", ["1", "null", '"text"', "[]"])
def test_an_entry_that_is_no_object_is_refused(entry):
    with pytest.raises(SchemaMismatch, match="where an object was expected"):
        _apart(f'{{"{LIST}": [{{}}, {entry}]}}'.encode())


def test_a_list_that_is_none_is_left_to_whoever_reads_the_rest():
    assert _apart(b'{"conversations": null}') == ([], {"conversations": None})
