"""Tests of the rule for due provisional buckets, against a model that checks one bucket at a time."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_pipeline.query.calendar import Step, list_buckets
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.verification import SecondLook
from cache_pipeline.storage.coverage import Coverage, FetchTime
from cache_pipeline.storage.freshness import MAX_TTL, FreshnessRule
from cache_pipeline_tests.query.declared import declared

ZONE = ZoneInfo("Europe/Berlin")
# The clocks go forward on the second of the days below.
FIRST = datetime(2026, 3, 27, 23, tzinfo=UTC)

HOUR, MINUTE, DAY = timedelta(hours=1), timedelta(minutes=1), timedelta(days=1)
BUCKETS = list_buckets(Interval(FIRST, FIRST + 71 * HOUR), Step(minutes=180), ZONE)
RULE = FreshnessRule(15 * MINUTE, HOUR, Step(minutes=180), ZONE)


@dataclass(frozen=True)
class Bucket:
    """A provisional bucket of the model."""

    interval: Interval
    at: datetime
    waits: bool = False


def due_at(bucket: Bucket, rule: FreshnessRule, watermark: datetime | None, recheck_delay: timedelta) -> datetime:
    """Return when a bucket is fetched again, in the words of the documentation."""
    end, at = bucket.interval.end, bucket.at
    if bucket.waits:
        return at + recheck_delay
    ages = [rule.finality_delay, *([rule.open_row_timeout] if rule.open_row_timeout else [])]
    times = [at + rule.ttl_at(at - end), *(end + age for age in ages if at < end + age)]
    if watermark is not None and rule.open_row_timeout is None and watermark > at and watermark >= end:
        times.append(max(at, end))
    return min(times)


minutes = st.integers(-60, 5 * 24 * 60).map(lambda each: FIRST + each * MINUTE)
fetched = st.lists(
    st.builds(Bucket, st.sampled_from(BUCKETS), minutes, st.booleans()),
    max_size=20,
    unique_by=lambda each: each.interval,
)
rules = st.builds(
    FreshnessRule,
    ttl=st.sampled_from([MINUTE, 15 * MINUTE, 4 * HOUR, 3 * DAY]),
    finality_delay=st.sampled_from([timedelta(0), 15 * MINUTE, 5 * HOUR, 3 * DAY]),
    step=st.just(Step(minutes=180)),
    zone=st.just(ZONE),
    open_row_timeout=st.sampled_from([None, 30 * HOUR]),
)


def coverage_of(buckets: list[Bucket], watermark: datetime | None, recheck_delay: timedelta) -> Coverage:
    at = {each.at for each in buckets}
    return Coverage(
        provisional=IntervalSet(each.interval for each in buckets),
        watermark=watermark,
        fetch_times=tuple(
            FetchTime(IntervalSet(each.interval for each in buckets if each.at == time), time) for time in sorted(at)
        ),
        second_looks={SecondLook.unexpected: IntervalSet(each.interval for each in buckets if each.waits)},
        recheck_delay=recheck_delay,
    )


@given(fetched, rules, st.none() | minutes, st.sampled_from([15 * MINUTE, 6 * HOUR]), minutes)
def test_gaps_are_missing_and_due_buckets(buckets, rule, watermark, recheck_delay, now):
    coverage = coverage_of(buckets, watermark, recheck_delay)
    requested = IntervalSet(BUCKETS)
    # A watermark later than now is one that was learned while the caller waited.
    seen = min(watermark, now) if watermark else None
    due = {each.interval for each in buckets if each.at < now and due_at(each, rule, seen, recheck_delay) <= now}
    fresh = {each.interval for each in buckets} - due
    assert rule.gaps(coverage, requested, now) == requested - IntervalSet(fresh)


@given(fetched, rules, st.none() | minutes, st.sampled_from([15 * MINUTE, 6 * HOUR]))
def test_answer_is_fresh_until_its_first_bucket_is_due(buckets, rule, watermark, recheck_delay):
    coverage = coverage_of(buckets, watermark, recheck_delay)
    for part in coverage.provisional:
        inside = [each for each in buckets if part.contains(each.interval)]
        completeness = rule.completeness_of(coverage, part)
        assert completeness is not None
        assert completeness.fresh_until is not None
        assert completeness.fresh_until == min(due_at(each, rule, watermark, recheck_delay) for each in inside)


@given(fetched, rules, minutes)
def test_figures_fetched_for_a_request_satisfy_it(buckets, rule, now):
    """Whatever the vendor's watermark is by the time that the answer arrives, or else the request would never end."""
    new = [Bucket(each.interval, now + max(each.at - now, timedelta(0)), each.waits) for each in buckets]
    coverage = coverage_of(new, now + 3 * DAY, 15 * MINUTE)
    assert not rule.gaps(coverage, coverage.provisional, now)


@given(st.sampled_from(BUCKETS), rules, minutes, minutes)
def test_answer_requested_in_time_need_not_be_repeated(interval, rule, at, now):
    answered = coverage_of([Bucket(interval, at)], None, 15 * MINUTE)
    if at >= rule.not_before(interval, now) and at < interval.end + rule.finality_delay:
        assert not rule.gaps(answered, IntervalSet([interval]), now)


@given(rules, st.timedeltas(-DAY, 30 * DAY), st.timedeltas(-DAY, 30 * DAY))
def test_lifetime_grows_with_age_up_to_a_day(rule, one, other):
    younger, older = sorted((one, other))
    assert rule.ttl <= rule.ttl_at(younger) <= rule.ttl_at(older) <= max(rule.ttl, MAX_TTL)


@pytest.mark.parametrize(
    ("age", "hourly", "daily"),
    [
        (-30 * MINUTE, 15 * MINUTE, 4 * HOUR),
        (15 * MINUTE, 15 * MINUTE, 4 * HOUR),
        (30 * MINUTE, 30 * MINUTE, 8 * HOUR),
        (HOUR, HOUR, 16 * HOUR),
        (2 * HOUR, 2 * HOUR, DAY),
        (DAY, DAY, DAY),
        (30 * DAY, DAY, DAY),
    ],
)
def test_lifetime_doubles_with_each_doubling_of_age(age, hourly, daily):
    """The table of the documentation."""
    for partition, expected in (("hour", hourly), ("day", daily)):
        rule = FreshnessRule.of(declared(partition=partition, max_query_interval="PT1H"))
        assert abs(rule.ttl_at(age) - expected) < timedelta(milliseconds=1)


def test_bucket_fetched_after_its_finality_delay_waits_for_its_lifetime():
    """The vendor is late: to ask every minute would bring nothing sooner."""
    ended = BUCKETS[0]
    for minutes_late, wait in ((60, 15), (120, 30), (240, 60)):
        at = ended.end + minutes_late * MINUTE
        coverage = coverage_of([Bucket(ended, at)], None, HOUR)
        assert not RULE.gaps(coverage, coverage.provisional, at + (wait - 1) * MINUTE)
        assert RULE.gaps(coverage, coverage.provisional, at + wait * MINUTE)


def test_late_bucket_is_fetched_once_the_vendor_has_caught_up():
    ended = BUCKETS[0]
    at = ended.end + 5 * HOUR
    for watermark, is_due in ((ended.end - MINUTE, False), (at - MINUTE, False), (at + MINUTE, True)):
        coverage = coverage_of([Bucket(ended, at)], watermark, HOUR)
        assert bool(RULE.gaps(coverage, coverage.provisional, at + 2 * MINUTE)) is is_due


def test_open_rows_are_fetched_again_when_they_have_timed_out():
    report = declared(
        platform="genesys", query_type="conversations", rows="conversations", group_by=[], metrics=["tTalk"],
        volume_metric=None, expected_groups=None, open_row_timeout="P2D", tiers=["history"],
    )  # fmt: skip
    rule = FreshnessRule.of(report)
    (bucket,) = list_buckets(Interval(FIRST, FIRST + HOUR), report.step, report.zone)
    at = bucket.end + timedelta(hours=30)
    coverage = coverage_of([Bucket(bucket, at)], at + 2 * MINUTE, HOUR)
    assert not rule.gaps(coverage, coverage.provisional, bucket.end + timedelta(hours=48) - MINUTE)
    assert rule.gaps(coverage, coverage.provisional, bucket.end + timedelta(hours=48))
