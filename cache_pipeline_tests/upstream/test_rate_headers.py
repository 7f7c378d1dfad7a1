"""Rate-limit headers in every form that vendors send."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_pipeline.upstream.http import httpx
from cache_pipeline.upstream.rate_headers import RateHints, parse_rate_headers

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("headers", "hints"),
    [
        ({}, RateHints(None, None)),
        ({"X-RateLimit-Remaining": "2", "Retry-After": "42"}, RateHints(2, 42.0)),
        ({"x-ratelimit-remaining": "0", "retry-after": "1.5"}, RateHints(0, 1.5)),
        ({"Retry-After": "Sun, 01 Mar 2026 12:00:30 GMT"}, RateHints(None, 30.0)),
        (
            {"Retry-After": "Sun, 01 Mar 2026 14:00:30 GMT", "Date": "Sun, 01 Mar 2026 14:00:00 GMT"},
            RateHints(None, 30.0),
        ),
        ({"Retry-After": "Sun, 01 Mar 2026 11:00:00 GMT"}, RateHints(None, 0.0)),
        ({"X-RateLimit-Remaining": "many", "Retry-After": "soon"}, RateHints(None, None)),
        ({"X-RateLimit-Remaining": "nan", "Retry-After": "inf"}, RateHints(None, None)),
        ({"Retry-After": "-5"}, RateHints(None, 0.0)),
    ],
)
def test_rate_headers_parse_as_number_or_date(headers: dict[str, str], hints: RateHints):
    assert parse_rate_headers(httpx.Headers(headers), NOW) == hints


@given(value=st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40))
def test_any_header_value_parses_without_error(value: str):
    hints = parse_rate_headers({"X-RateLimit-Remaining": value, "Retry-After": value, "Date": value}, NOW)
    assert hints.retry_after is None or hints.retry_after >= 0
