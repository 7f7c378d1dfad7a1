"""Tests that equal queries share a key and a series, however their filters are written."""

import random
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cache_pipeline.query.filters import Filter
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.series import CanonicalQuery, Series
from cache_pipeline_tests.query.declared import declared

DAY = Interval.parse("2023-10-01T00:00:00Z/2023-10-02T00:00:00Z")
FILTERS: dict[str, Any] = {
    "type": "and",
    "predicates": [
        {"dimension": "queueId", "operator": "in", "values": ["q1", "q2", "q3"]},
        {"dimension": "mediaType", "operator": "notIn", "values": ["email"]},
    ],
}


def key(tenant: str = "default", interval: Interval = DAY, **changes: Any) -> str:
    return CanonicalQuery(Series(declared(**changes), tenant), interval).cache_key("5s")


def shuffle(values: list[Any], rng: random.Random) -> list[Any]:
    return rng.sample([*values, rng.choice(values)], len(values) + 1)


@given(st.randoms(use_true_random=False))
def test_spellings_of_one_meaning_share_a_key(rng):
    predicates = [{**predicate, "values": shuffle(predicate["values"], rng)} for predicate in FILTERS["predicates"]]
    respelled = key(
        group_by=shuffle(["queueId", "mediaType"], rng),
        metrics=shuffle(["offered", "answered"], rng),
        filters={"type": "and", "predicates": shuffle(predicates, rng)},
        granularity=rng.choice(["PT1H", "PT60M"]),
        description=rng.choice(["One", "Another"]),
        owners=rng.choice([[], ["team:a"]]),
        volume_metric=rng.choice([None, "offered"]),
        expected_groups=rng.choice([None, 3]),
        interval=rng.choice([DAY, Interval.parse("2023-10-01T07:00:00+07:00/2023-10-02T07:00:00+07:00")]),
    )
    assert respelled == key(filters=FILTERS)


def test_fetch_options_do_not_change_the_key():
    assert key(delivery="sync") == key(delivery="async") == key(max_query_interval="P1W") == key()


def test_defaults_do_not_change_the_key():
    assert key(time_zone="UTC") == key(time_zone=None)
    assert key(filters={"type": "or", "predicates": []}) == key()


def test_single_condition_means_the_same_under_and_or():
    one = FILTERS["predicates"][:1]
    assert key(filters={"type": "or", "predicates": one}) == key(filters={"type": "and", "predicates": one})
    assert key(filters={"type": "or", "predicates": one * 2}) == key(filters={"type": "and", "predicates": one})


MEANINGS: list[dict[str, Any]] = [
    {},
    {"tenant": "other"},
    {"platform": "genesys"},
    {"query_type": "agent-performance"},
    {"granularity": "PT30M"},
    {"granularity": "P1D"},
    {"granularity": "P1D", "time_zone": "UTC"},
    {"granularity": "P1D", "time_zone": "Europe/Paris"},
    {"time_zone": "Asia/Kolkata"},
    {"group_by": ["queueId"]},
    {"group_by": []},
    {"metrics": ["offered"]},
    {"metrics": ["offered", "answered", "abandoned"]},
    {"filters": FILTERS},
    {"filters": {**FILTERS, "type": "or"}},
    {"filters": {"predicates": FILTERS["predicates"][:1]}},
    {"filters": {"predicates": [{"dimension": "queueId", "operator": "notIn", "values": ["q1", "q2", "q3"]}]}},
    {"filters": {"predicates": [{"dimension": "queueId", "values": ["q1,q2,q3"]}]}},
    {"interval": Interval.parse("2023-10-01T00:00:00Z/2023-10-03T00:00:00Z")},
]


def test_different_meanings_have_different_keys():
    assert len({key(**meaning) for meaning in MEANINGS}) == len(MEANINGS)


def test_different_series_have_different_ids():
    series = [
        Series(declared(**{n: v for n, v in m.items() if n != "tenant"}), m.get("tenant", "default"))
        for m in MEANINGS
        if "interval" not in m
    ]
    assert len({each.query_id for each in series}) == len(series)
    other_metrics = [each for each in series if each.report.metrics != series[0].report.metrics]
    assert len(other_metrics) == 2
    assert {each.id for each in other_metrics} == {series[0].id}
    assert len({each.id for each in series}) == len(series) - len(other_metrics)


def test_metrics_of_single_rows_are_another_series():
    rows = {"platform": "genesys", "query_type": "conversations", "rows": "conversations", "group_by": []}
    one, other = (
        Series(declared(**rows, volume_metric=None, metrics=metrics)) for metrics in (["tHandle"], ["tHandle", "tTalk"])
    )
    assert one.id != other.id


def test_key_has_the_documented_form():
    """G7: the query type, the SHA-256 of the canonical form, the TTL tier."""
    assert re.fullmatch(r"analytics:queue-performance:[0-9a-f]{64}:5s", key())
    assert re.fullmatch(r"[0-9a-f]{32}", Series(declared()).id)


@pytest.mark.parametrize(
    ("predicates", "kind", "named"),
    [
        ([("queueId", "in", ["b", "a", "a"])], "and", ("a", "b")),
        ([("queueId", "in", ["a", "b"]), ("queueId", "in", ["b", "c"])], "and", ("b",)),
        ([("queueId", "notIn", ["a"])], "and", None),
        ([("mediaType", "in", ["voice"])], "and", None),
        ([("queueId", "in", ["a"]), ("mediaType", "in", ["voice"])], "or", None),
        ([("queueId", "in", ["a"])], "or", ("a",)),
        ([], "and", None),
    ],
)
def test_filter_names_values_only_if_it_limits_them(predicates, kind, named):
    declared_predicates = [
        {"dimension": dimension, "operator": how, "values": values} for dimension, how, values in predicates
    ]
    assert Filter.parse({"type": kind, "predicates": declared_predicates}).named_values("queueId") == named


def test_groups_per_bucket_come_from_filter_or_declaration():
    both = [{"dimension": "queueId", "values": ["a", "b"]}, {"dimension": "mediaType", "values": ["voice", "chat"]}]
    assert declared(filters={"predicates": both}).expected_groups_per_bucket() == 4
    assert declared(filters={"predicates": both[:1]}).expected_groups_per_bucket() == 24
    assert declared(group_by=[]).expected_groups_per_bucket() == 1
    assert declared(expected_groups=None).expected_groups_per_bucket() is None


@pytest.mark.parametrize(
    "malformed",
    [
        {"predicates": [{"dimension": "queueId", "operator": "like", "values": ["a"]}]},
        {"predicates": [{"dimension": "queueId", "values": []}]},
        {"predicates": [{"dimension": "", "values": ["a"]}]},
        {"predicates": [{"dimension": "queueId", "values": ["a"], "extra": 1}]},
        {"predicates": "queueId"},
        {"type": "xor", "predicates": []},
        {"surprise": 1},
    ],
)
def test_malformed_filter_is_refused(malformed):
    with pytest.raises(ValidationError):
        Filter.parse(malformed)


def test_reports_of_one_meaning_have_separate_keys():
    assert key(name="queue_hour") != key(name="another_name")
