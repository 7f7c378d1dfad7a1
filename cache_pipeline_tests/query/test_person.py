"""Tests of how a person is found in texts, and not within another person's id."""

import re

import pytest

from cache_pipeline.errors import CommandError
from cache_pipeline.query.person import Person, pseudonym_of


@pytest.mark.parametrize(
    ("identifier", "text"),
    [
        ("user-17", '{"userId": "user-17"}'),
        ("user-17", "first line\\nuser-17 failed"),
        ("user-17", "?filters=%7B%22values%22%3A%5B%22user-17%22"),
        ("+49301234567", "tel:+49301234567"),
        ("+49301234567", "tel%3A%2B49301234567%22"),
        ("anna@example.com", "sip:anna@example.com;transport=tls"),
        ("jörg@example.com", '"j\\u00f6rg@example.com"'),
        ("a.b+c(d)", "[a.b+c(d)]"),
    ],
)
def test_an_id_is_found_in_every_spelling(identifier: str, text: str):
    person = Person(identifier)
    assert person.occurs_in(text)
    assert person.occurs_in(text.encode())
    changed = person.replace_in(text.encode())
    assert changed.count(b"forgotten") == 1
    assert not person.occurs_in(changed)


@pytest.mark.parametrize(
    ("identifier", "text"),
    [
        ("user-17", "user-170 user-17-a xuser-17 user-17_b super-user-17"),
        ("+49301234567", "+493012345678"),
        ("a.b+c(d)", "axb+c(d)"),
    ],
)
def test_an_id_within_another_is_not_the_person(identifier: str, text: str):
    assert not Person(identifier).occurs_in(text)
    assert not Person(identifier).occurs_in(text.encode())


@pytest.mark.parametrize("identifier", ["u-1", "....", "line\nbreak", "x" * 201, ""])
def test_texts_that_are_no_ids_are_refused(identifier: str):
    with pytest.raises(CommandError, match="printable characters"):
        Person(identifier)


def test_pseudonyms_follow_from_id_and_salt():
    first = pseudonym_of("user-17", b"salt")
    assert re.fullmatch("forgotten-[0-9a-f]{16}", first)
    assert first == pseudonym_of("user-17", b"salt")
    assert len({first, pseudonym_of("user-17", b"other"), pseudonym_of("user-18", b"salt")}) == 3
