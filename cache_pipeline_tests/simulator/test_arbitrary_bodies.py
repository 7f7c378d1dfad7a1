"""Property tests of the simulator: every request body gets a documented response."""

from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cache_pipeline_tests.simulator.vendor import AGGREGATES, REPORTDATA, Vendor, aggregate_body, report_body

WORDS = ["queueId", "userId", "mediaType", "voice", "and", "or", "in", "matches", "dimension", "P1D", "", "2024-06-10"]
FIELDS = ["type", "predicates", "clauses", "dimension", "operator", "value", "values", "range", "metric", "name"]
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
texts = st.sampled_from(WORDS) | st.text(max_size=12)
values = st.recursive(
    scalars | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS) | texts, inner, max_size=4),
    max_leaves=8,
)
PERIODS = st.from_regex(r"P([0-9]{1,9}[YMWD]){0,2}(T([0-9]{1,9}[HMS]){0,2})?", fullmatch=True)
INSTANTS = st.from_regex(
    r"(0000|1969|2024|2199|9999)-[01][0-9]-[0-3][0-9]T[0-2][0-9]:00:00(Z|[+-][0-2][0-9]:[0-9]{2})?", fullmatch=True
)


def _bodies(body: dict[str, Any], extra: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    changes = st.dictionaries(st.sampled_from([*body, *extra]), values, max_size=2)
    times = st.fixed_dictionaries({}, optional={"interval": st.tuples(INSTANTS, INSTANTS).map("/".join)})
    return st.builds(lambda change, time: body | time | change, changes, times)


REPORTS = _bodies(report_body(), ["filters", "groupBy", "columns", "timeZone"])
QUERIES = st.builds(
    lambda body, period: body | {"granularity": period},
    _bodies(aggregate_body(), ["filter", "timeZone", "pageSize", "views", "queryType"]),
    PERIODS,
)
relaxed = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _check(answer: httpx.Response) -> None:
    assert answer.status_code in (200, 202, 400), answer.text
    if answer.status_code == 400:
        assert answer.json()["contextId"] == answer.headers["ININ-Correlation-Id"]
        assert answer.json()["message"]


@relaxed
@given(body=REPORTS)
def test_any_report_query_gets_a_documented_response(shared_vendor: Vendor, body: dict[str, Any]) -> None:
    answer = shared_vendor.post(f"{REPORTDATA}/async", body)
    _check(answer)
    if answer.status_code == 200:
        shared_vendor.http.get(f"{REPORTDATA}/{answer.json()['id']}", headers=shared_vendor.headers)


@relaxed
@given(body=QUERIES, path=st.sampled_from(["query", "jobs"]))
def test_any_aggregate_query_gets_a_documented_response(shared_vendor: Vendor, body: dict[str, Any], path: str) -> None:
    _check(shared_vendor.post(f"{AGGREGATES}/{path}", body))


@pytest.mark.parametrize("path", ["/oauth/token", f"{REPORTDATA}/async", f"{AGGREGATES}/query"])
@pytest.mark.parametrize("content", [b"", b"\x00", b"null", b"[" * 5000, b'{"interval": 1e999}', b"\xed\xa0\x80"])
def test_invalid_bytes_are_a_client_error(shared_vendor: Vendor, path: str, content: bytes) -> None:
    headers = shared_vendor.headers | {"Content-Type": "application/json"}
    answer = shared_vendor.http.post(path, content=content, headers=headers)
    assert answer.status_code in (400, 401)
