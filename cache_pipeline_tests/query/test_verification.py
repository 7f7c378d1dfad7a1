"""The pure rules by which answers are verified, against vendors that truncate, refuse and answer nothing."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache_pipeline.query.completeness import RowDensity, Verdict
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.report import Report
from cache_pipeline.query.tallies import RowTally, merge_tallies
from cache_pipeline.query.verification import (
    Accept,
    AnsweredQuery,
    Evidence,
    Knowledge,
    Query,
    Reject,
    SecondLook,
    next_step,
)
from cache_pipeline_tests.query.declared import declared, with_changes

START = datetime(2026, 1, 5, tzinfo=UTC)
LATER = datetime(2027, 1, 1, tzinfo=UTC)

#: One row of the vendor: the bucket's number and the group.
Row = tuple[int, int]


def report_of(minutes: int = 60, expected_groups: int | None = None) -> Report:
    return declared(
        time_zone="UTC",
        granularity={15: "PT15M", 60: "PT1H"}[minutes],
        group_by=["queueId"],
        metrics=["offered"],
        expected_groups=expected_groups,
    )


@dataclass
class Vendor:
    """Rows by bucket and group, and the ways in which the vendor fails to give them.

    Attributes:
        rows: The truth.
        minutes: Length of a bucket.
        limit: Rows of one answer; None for no limit.
        limit_bytes: Bytes of one answer; None for no limit.
        row_bytes: The size of a row.
        by_group: Whether answers come group by group, so that a cut removes whole groups.
        longest: Longer intervals are refused; None for no limit.
        fails: Whether the job of an interval fails.
        is_silent: Whether every answer is empty.
    """

    rows: list[Row]
    minutes: int = 60
    limit: int | None = None
    by_group: bool = False
    longest: timedelta | None = None
    fails: Callable[[Interval], bool] = lambda _interval: False
    is_silent: bool = False
    limit_bytes: int | None = None
    row_bytes: int = 50
    asked: Counter[Interval] = field(default_factory=Counter)

    def truth(self, interval: Interval) -> list[Row]:
        first, end = (int((at - START).total_seconds()) // 60 // self.minutes for at in (interval.start, interval.end))
        return [row for row in self.rows if first <= row[0] < end]

    def answer(self, interval: Interval) -> AnsweredQuery | None:
        self.asked[interval] += 1
        assert self.asked[interval] == 1, f"{interval} is asked twice"
        if self.longest is not None and interval.end - interval.start > self.longest:
            return None
        found = [] if self.is_silent else self.truth(interval)
        found.sort(key=(lambda row: (row[1], row[0])) if self.by_group else (lambda row: row))
        kept = found[: self.limit]
        if self.limit_bytes is not None:
            kept = kept[: self.limit_bytes // self.row_bytes]
        return AnsweredQuery(interval, self.tallies(kept), LATER, len(kept), size=len(kept) * self.row_bytes)

    def tallies(self, rows: Iterable[Row]) -> dict[datetime, RowTally]:
        return merge_tallies(
            {START + timedelta(minutes=bucket * self.minutes): RowTally(1, hash((bucket, group)) & 0xFFFF, group)}
            for bucket, group in rows
        )


def verify(vendor: Vendor, knowledge: Knowledge, evidence: Evidence) -> tuple[Accept | Reject, Evidence]:
    """Do what the rules say until they accept or reject; every step must ask for something new."""
    while True:
        step = next_step(evidence, knowledge)
        if not isinstance(step, Query):
            return step, evidence
        assert step.intervals
        for interval in step.intervals:
            answer = vendor.answer(interval)
            if vendor.fails(interval):
                evidence = evidence.with_failure(interval)
            else:
                evidence = evidence.with_refusal(interval) if answer is None else evidence.with_answer(answer)


def day(number: int = 0, days: int = 1) -> Interval:
    return Interval(START + timedelta(days=number), START + timedelta(days=number + days))


def knowledge_of(report: Report, **options: object) -> Knowledge:
    return Knowledge(report, RowDensity(report.zone, report.expected_groups_per_bucket()), **options)


def is_true(step: Accept, evidence: Evidence, vendor: Vendor) -> bool:
    kept = merge_tallies(evidence.answers[part.interval].tallies for part in step.parts)
    return kept == vendor.tallies(vendor.truth(evidence.interval))


def full(buckets: int, groups: int) -> list[Row]:
    return [(bucket, group) for bucket in range(buckets) for group in range(groups)]


def test_nothing_is_split_below_the_shortest_query() -> None:
    """A vendor whose queries name days answers an hour as it answers the day."""
    vendor = Vendor(full(24, 8), longest=timedelta(hours=1))
    known = knowledge_of(report_of(expected_groups=10), shortest_query=timedelta(days=1))
    step, evidence = verify(vendor, known, Evidence(day()))
    assert isinstance(step, Reject)
    assert evidence.refused == {day()}
    step, evidence = verify(replace(vendor, asked=Counter()), known, Evidence(day(days=7)))
    assert isinstance(step, Reject)
    assert {each.end - each.start for each in evidence.refused} == {timedelta(days=7), timedelta(days=1)}


def test_short_answer_of_the_shortest_query_is_not_asked_in_parts() -> None:
    vendor = Vendor(full(24, 2))
    known = knowledge_of(report_of(expected_groups=10), shortest_query=timedelta(days=1))
    _, evidence = verify(vendor, known, Evidence(day()))
    assert set(evidence.answers) == {day()}


def test_day_with_23_hours_is_as_long_as_the_shortest_query() -> None:
    report = with_changes(report_of(), time_zone="Europe/Berlin")
    known = knowledge_of(report, shortest_query=timedelta(days=1))
    week = Interval(datetime(2026, 3, 22, 23, tzinfo=UTC), datetime(2026, 3, 29, 22, tzinfo=UTC))
    assert len(known.parts(week)) == 7


def test_answer_with_enough_rows_takes_one_query() -> None:
    vendor = Vendor(full(24, 8))
    step, evidence = verify(vendor, knowledge_of(report_of(expected_groups=10)), Evidence(day()))
    assert isinstance(step, Accept)
    assert is_true(step, evidence, vendor)
    assert vendor.asked.total() == 1
    assert [part.second_look for part in step.parts] == [None]


@pytest.mark.parametrize("below", [1, 2, 3])
def test_answer_cut_inside_its_last_bucket_ends(below: int) -> None:
    """The tail of the answer is the last part's tail too, and is fetched once."""
    rows = [row for row in full(96, 76) if 32 <= row[0] < 72]
    vendor = Vendor(rows, 15, limit=len(rows) - below)
    step, evidence = verify(vendor, knowledge_of(report_of(15)), Evidence(day()))
    assert isinstance(step, Accept)
    assert is_true(step, evidence, vendor)


@pytest.mark.parametrize("below", [1, 40, 1468])
def test_cut_in_time_order_is_found(below: int) -> None:
    rows = [row for row in full(96, 112) if 32 <= row[0] < 72]
    vendor = Vendor(rows, 15, limit=len(rows) - below)
    step, evidence = verify(vendor, knowledge_of(report_of(15)), Evidence(day()))
    assert isinstance(step, Accept)
    assert is_true(step, evidence, vendor)


@pytest.mark.parametrize(
    ("groups", "days", "limit", "expected"), [(40, 7, 2000, None), (150, 1, 2000, None), (150, 1, 5000, 50)]
)
def test_cut_in_group_order_is_found(groups: int, days: int, limit: int, expected: int | None) -> None:
    """Groups of a contact centre are open for different hours, so the end alone shows nothing of the cut."""
    rows = [
        (bucket, group) for bucket, group in full(96 * days, groups) if 28 + group % 12 <= bucket % 96 < 52 + group % 24
    ]
    vendor = Vendor(rows, 15, limit=limit, by_group=True)
    step, evidence = verify(vendor, knowledge_of(report_of(15, expected)), Evidence(day(0, days)))
    assert isinstance(step, Accept)
    assert is_true(step, evidence, vendor)


def test_limit_in_bytes_below_an_earlier_answer_is_found() -> None:
    """An earlier answer of short rows was longer in rows, but not in bytes."""
    earlier = Vendor(full(24, 46), row_bytes=45, limit_bytes=64_300)
    knowledge = knowledge_of(report_of(expected_groups=46))
    step, _ = verify(earlier, knowledge, Evidence(day()))
    assert isinstance(step, Accept)
    knowledge.density.learn(dict.fromkeys(knowledge.buckets(day()), 46))
    learned = replace(knowledge, stats=knowledge.stats.with_results(step.results))
    rows = [(24 + bucket, group) for bucket, group in full(24, 45)]
    vendor = Vendor(rows, row_bytes=60, limit_bytes=64_300)
    step, evidence = verify(vendor, learned, Evidence(day(1)))
    assert isinstance(step, Accept)
    assert is_true(step, evidence, vendor)


def test_equal_days_are_not_probed_for_their_bytes() -> None:
    knowledge = knowledge_of(report_of(expected_groups=46))
    step, _ = verify(Vendor(full(24, 46)), knowledge, Evidence(day()))
    learned = replace(knowledge, stats=knowledge.stats.with_results(step.results))
    vendor = Vendor([(24 + bucket, group) for bucket, group in full(24, 46)])
    verify(vendor, learned, Evidence(day(1)))
    assert vendor.asked.total() == 1


def test_refused_interval_is_split_and_the_length_is_remembered() -> None:
    vendor = Vendor(full(24, 8), longest=timedelta(hours=12))
    knowledge = knowledge_of(report_of(expected_groups=8))
    step, evidence = verify(vendor, knowledge, Evidence(day()))
    assert isinstance(step, Accept)
    assert is_true(step, evidence, vendor)
    learned = replace(knowledge, stats=knowledge.stats.after_refusal(day()))
    other = Vendor(full(24, 8), longest=timedelta(hours=12))
    verify(other, learned, Evidence(day()))
    assert day() not in other.asked


def test_refused_single_bucket_is_rejected() -> None:
    step, _ = verify(Vendor([], longest=timedelta(0)), knowledge_of(report_of(expected_groups=8)), Evidence(day()))
    assert isinstance(step, Reject)
    assert step.result is None


def hours(first: int, last: int) -> Interval:
    return Interval(START + timedelta(hours=first), START + timedelta(hours=last))


def test_failed_job_is_replaced_by_two_halves() -> None:
    vendor = Vendor(full(24, 8), fails=lambda each: each == day())
    step, evidence = verify(vendor, knowledge_of(report_of(expected_groups=8)), Evidence(day()))
    assert isinstance(step, Accept)
    assert is_true(step, evidence, vendor)
    assert set(vendor.asked) == {day(), hours(0, 12), hours(12, 24)}
    assert [(each.interval, each.verdict) for each in step.results if each.verdict is Verdict.failed] == [
        (day(), Verdict.failed)
    ]


def test_failed_week_is_replaced_by_two_halves() -> None:
    vendor = Vendor(full(24 * 7, 8), fails=lambda each: each == day(0, 7))
    step, evidence = verify(vendor, knowledge_of(report_of(expected_groups=8)), Evidence(day(0, 7)))
    assert isinstance(step, Accept)
    assert is_true(step, evidence, vendor)
    assert set(vendor.asked) == {day(0, 7), day(0, 3), day(3, 4)}


def test_jobs_that_fail_for_their_size_are_split_until_they_succeed() -> None:
    vendor = Vendor(full(24, 8), fails=lambda each: each.length > timedelta(hours=5))
    step, evidence = verify(vendor, knowledge_of(report_of(expected_groups=8)), Evidence(day()))
    assert isinstance(step, Accept)
    assert is_true(step, evidence, vendor)
    assert vendor.asked.total() == 1 + 2 + 4 + 8
    failed = {each.interval.length for each in step.results if each.verdict is Verdict.failed}
    assert failed == {timedelta(hours=6)}


def test_failing_bucket_is_rejected_after_bounded_queries() -> None:
    vendor = Vendor(full(24, 8), fails=lambda each: each.contains(hours(7, 8)))
    step, _ = verify(vendor, knowledge_of(report_of(expected_groups=8)), Evidence(day()))
    assert isinstance(step, Reject)
    assert (step.interval, step.result) == (hours(7, 8), None)
    assert vendor.asked.total() <= 11
    assert not any(each.verdict is Verdict.failed for each in step.results)


def test_vendor_that_fails_every_job_is_not_asked_for_every_bucket() -> None:
    vendor = Vendor(full(96, 8), minutes=15, fails=lambda _interval: True)
    knowledge = knowledge_of(report_of(15, expected_groups=8))
    step, _ = verify(vendor, knowledge, Evidence(day()))
    assert isinstance(step, Reject)
    assert vendor.asked.total() <= 15
    once = Vendor(full(96, 8), minutes=15, fails=lambda _interval: True)
    assert isinstance(verify(once, replace(knowledge, is_failing=True), Evidence(day()))[0], Reject)
    assert once.asked.total() == 1


def taught(report: Report, groups: int, days: int = 14) -> Knowledge:
    """Knowledge of some days before, with the same number of groups in each hour."""
    knowledge = knowledge_of(report)
    for number in range(1, days + 1):
        knowledge.density.learn(dict.fromkeys(knowledge.buckets(day(-number)), groups))
    return knowledge


def test_empty_answer_against_history_needs_a_second_look() -> None:
    knowledge = taught(report_of(expected_groups=17), 17)
    step, evidence = verify(Vendor(full(24, 17), is_silent=True), knowledge, Evidence(day()))
    assert isinstance(step, Accept)
    assert {part.second_look for part in step.parts} == {SecondLook.unexpected}
    assert is_true(step, evidence, Vendor([]))


def test_second_look_that_agrees_is_final_after_one_query() -> None:
    knowledge = taught(report_of(expected_groups=17), 17)
    vendor = Vendor(full(24, 3))
    evidence = Evidence(day(), earlier=IntervalSet([day()]), earlier_tallies=vendor.tallies(vendor.rows))
    step, _ = verify(vendor, knowledge, evidence)
    assert isinstance(step, Accept)
    assert {part.second_look for part in step.parts} == {None}
    assert vendor.asked.total() == 1


def test_second_look_that_differs_starts_again() -> None:
    knowledge = taught(report_of(expected_groups=17), 17)
    vendor = Vendor(full(24, 3))
    evidence = Evidence(day(), earlier=IntervalSet([day()]))
    step, _ = verify(vendor, knowledge, evidence)
    assert isinstance(step, Accept)
    assert {part.second_look for part in step.parts} == {SecondLook.unexpected}


def test_answer_that_nothing_can_judge_is_unverified() -> None:
    vendor = Vendor(full(24, 50))
    step, _ = verify(vendor, knowledge_of(report_of()), Evidence(day()))
    assert isinstance(step, Accept)
    assert {part.second_look for part in step.parts} == {SecondLook.unverified}
    assert [result.verdict for result in step.results] == [Verdict.unverified]


def test_rare_rows_are_no_reason_for_doubt() -> None:
    """Three calls a night: fewer than 80 % of them come in four nights of ten."""
    knowledge = knowledge_of(report_of())
    for number in range(1, 29):
        knowledge.density.learn(
            {bucket: int(bucket.start.hour in {1, 2, 3}) for bucket in knowledge.buckets(day(-number))}
        )
    vendor = Vendor([(2, 0)])
    step, _ = verify(vendor, knowledge, Evidence(day()))
    assert isinstance(step, Accept)
    assert vendor.asked.total() == 1
    assert {part.second_look for part in step.parts} == {None}


def test_bucket_at_a_known_limit_is_rejected() -> None:
    vendor = Vendor(full(24, 40), limit=30)
    knowledge = knowledge_of(report_of(expected_groups=40), shortest_limit=10)
    step, _ = verify(vendor, knowledge, Evidence(day()))
    assert isinstance(step, Reject)
    assert step.result is not None
    assert step.result.verdict is Verdict.incomplete


@st.composite
def scenarios(draw: st.DrawFn) -> tuple[Vendor, Knowledge]:
    minutes = draw(st.sampled_from([15, 60]))
    groups = draw(st.integers(1, 160))
    is_open: Callable[[Row], bool] = draw(
        st.sampled_from(
            [
                lambda row: True,
                lambda row: 8 * 60 <= row[0] * minutes < 18 * 60,
                lambda row: (6 + row[1] % 5) * 60 <= row[0] * minutes < (12 + row[1] % 10) * 60,
                lambda row: row[0] % 7 == 0 and row[1] % 3 == 0,
            ]
        )
    )
    missing = draw(st.integers(0, 6))
    rows = [
        row for row in full(24 * 60 // minutes, groups) if is_open(row) and (missing == 0 or hash(row) % 7 >= missing)
    ]
    limit = draw(st.one_of(st.none(), st.integers(1000, 6000), st.integers(max(1, len(rows) - 3), len(rows) + 3)))
    longest = draw(st.sampled_from([None, None, timedelta(hours=12), timedelta(hours=1)]))
    fails: Callable[[Interval], bool] = draw(
        st.sampled_from(
            [
                *[lambda _interval: False] * 4,
                lambda each: each.length > timedelta(hours=5),
                lambda each: hash(each) % 5 == 0,
                lambda _interval: True,
            ]
        )
    )
    vendor = Vendor(rows, minutes, limit, draw(st.booleans()), longest, fails, draw(st.integers(0, 19)) == 0)
    report = report_of(minutes, draw(st.sampled_from([None, groups, max(1, groups // 3), groups * 2])))
    knowledge = (
        taught(report, draw(st.sampled_from([groups, max(1, groups // 2)])), 7)
        if draw(st.booleans())
        else knowledge_of(report)
    )
    return vendor, knowledge


@pytest.mark.timeout(600)
@settings(max_examples=500)
@given(scenarios())
def test_every_verification_ends_and_asks_nothing_twice(scenario: tuple[Vendor, Knowledge]) -> None:
    vendor, knowledge = scenario
    step, evidence = verify(vendor, knowledge, Evidence(day()))
    asked = [answer.interval for answer in evidence.answers.values()]
    assert all(day().contains(interval) for interval in asked)
    if isinstance(step, Accept):
        assert IntervalSet(part.interval for part in step.parts) == IntervalSet([day()])
        if (vendor.limit or 1000) >= 1000 and not vendor.is_silent:
            final = [part for part in step.parts if part.second_look is None]
            for part in final:
                truth = vendor.tallies(vendor.truth(part.interval))
                assert evidence.answers[part.interval].tallies == truth
