"""Patterns of paths: what they admit, and that no other spelling of a path gets past them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_pipeline.path_patterns import PathPattern, is_plain_path

ONE = PathPattern.parse("GET /api/v2/users/*")
ALL = PathPattern.parse("GET /api/v2/**")
#: Spellings that a server behind may take for another path.
TRICKS = (
    *("/api/v2/users/..", "/api/v2/users/../flows", "/api/v2/users/.", "/api/v2/./users/1", "/api/v2/users/...."),
    *("/api/v2/users/%2e%2e", "/api/v2/users/%2E%2E/x", "/api/v2/users%2f1", "/api/v2/users/a%00", "/api/v2/users/%61"),
    *("/api/v2//users/1", "//api/v2/users/1", "/api/v2/users/1/", "/api/v2/users/", "/api/v2/users//1"),
    *("/api/v2/users\\1", "/api/v2/users/..\\..", "/api/v2/users;v=1/1", "/api/v2/users/1;x", "/api/v2/users/1:x"),
    *(
        "http://other.example/api/v2/users/1",
        "api/v2/users/1",
        "",
        "*",
        "/api/v2/users/1\n",
        "/api/v2/users/1 HTTP/1.1",
    ),
    *(
        "/api/v2/users/é",
        "/api/v2/users/\uff11",
        "/api/v2/users/" + "x" * 600,
        "/api/v2/users/1?x",
        "/api/v2/users/1#x",
    ),
)


def test_wildcard_stands_for_one_part_or_for_the_rest():
    assert ONE.admits("GET", "/api/v2/users/8f3c")
    assert ONE.admits("HEAD", "/api/v2/users/8f3c")
    assert not ONE.admits("GET", "/api/v2/users")
    assert not ONE.admits("GET", "/api/v2/users/8f3c/queues")
    assert not ONE.admits("GET", "/API/v2/users/8f3c")
    assert not ONE.admits("GET", "/api/v2/USERS/8f3c")
    assert not ONE.admits("POST", "/api/v2/users/8f3c")
    assert ALL.admits("GET", "/api/v2/users/8f3c/queues")
    assert not ALL.admits("GET", "/api/v2")
    assert not ALL.admits("GET", "/api/v20/users")


@pytest.mark.parametrize("path", TRICKS)
def test_other_spellings_are_admitted_by_no_pattern(path):
    assert not is_plain_path(path)
    for pattern in (ONE, ALL, PathPattern.parse("GET /*/**")):
        assert not pattern.admits("GET", path)


@given(st.text(max_size=30) | st.text(alphabet="aZ0-_.~/%;\\?#:@ \t\r\n\uff11", max_size=12))
def test_admitted_path_has_no_other_spelling(rest):
    if ALL.admits("GET", f"/api/v2/{rest}"):
        assert not set(rest) & set("%;\\?#:@ \t\r\n")
        assert all(part.strip(".") for part in rest.split("/"))


@pytest.mark.parametrize(
    "text",
    [
        "/api/v2/users",
        "get /api/v2/users",
        "TRACE /api/v2/users",
        "GET",
        "GET users",
        "GET /a/../b",
        "GET /a//b",
        "GET /a*",
        *("GET /**/b", "GET /a/%2e", "GET /a/", "GET http://other.example/a", "GET /a b", "CONNECT /a", "GET /a?b"),
    ],
)
def test_other_text_is_no_pattern(text):
    with pytest.raises(ValueError, match=r"has no plain path|does not begin with a method"):
        PathPattern.parse(text)
