"""Tests of the answers in vendors' forms that are kept rendered."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from cache_pipeline.api.rendered_answers import RenderedAnswers
from cache_pipeline.storage.answer import Answer, Completeness

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
ANSWER = Answer(b"{}", '"one"', Completeness(NOON, None, None))


def test_body_is_found_for_the_same_answer_and_query():
    rendered = RenderedAnswers()
    rendered.store(ANSWER, "key", "/path", b"query", b"body")
    assert rendered.get(ANSWER, "key", "/path", b"query") == b"body"
    later = replace(ANSWER, completeness=replace(ANSWER.completeness, complete_through=NOON + timedelta(hours=1)))
    for answer, key, path, query in (
        (replace(ANSWER, etag='"two"'), "key", "/path", b"query"),
        (later, "key", "/path", b"query"),
        (ANSWER, "other key", "/path", b"query"),
        (ANSWER, "key", "/other", b"query"),
        (ANSWER, "key", "/path", b"query "),
        (ANSWER, "key", "/path\nquery", b""),
    ):
        assert rendered.get(answer, key, path, query) is None


def test_bodies_stay_within_their_bytes_and_the_last_read_ones_stay():
    rendered = RenderedAnswers(max_bytes=100)
    for number in range(4):
        rendered.store(ANSWER, "key", "/path", b"%d" % number, bytes(25))
    assert rendered.get(ANSWER, "key", "/path", b"0") is not None
    rendered.store(ANSWER, "key", "/path", b"4", bytes(25))
    assert [rendered.get(ANSWER, "key", "/path", b"%d" % number) is not None for number in range(5)] == [
        True,
        False,
        True,
        True,
        True,
    ]
    rendered.store(ANSWER, "key", "/path", b"large", bytes(26))
    assert rendered.get(ANSWER, "key", "/path", b"large") is None
    rendered.store(ANSWER, "key", "/path", b"4", bytes(25))
    assert rendered.get(ANSWER, "key", "/path", b"0") is not None, "a body that is stored twice counts once"
