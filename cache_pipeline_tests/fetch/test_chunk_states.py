"""Tests of one chunk's way from query to verdict: splitting, second looks and failures."""

import asyncio
from dataclasses import dataclass, replace

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cache_pipeline.errors import SchemaMismatch
from cache_pipeline.fetch.chunk_states import EarlierRows, IncompleteAnswer, Locked, RetryLater, Split, Submitted
from cache_pipeline.fetch.gap_rule import GapRule
from cache_pipeline.fetch.vendor_response import VendorResponse
from cache_pipeline.query.calendar import split
from cache_pipeline.query.completeness import ExpectationSource, TruncationStats, Verdict
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.schema import sort_rows
from cache_pipeline.query.verification import SecondLook
from cache_pipeline.rows.rows import Rows
from cache_pipeline.storage.coverage import Coverage, FetchTime
from cache_pipeline.storage.ports.ledger import OpenJob
from cache_pipeline_tests.fetch.scripted_vendor import (
    HOUR,
    REPORT,
    ScriptedVendor,
    check_answers_of,
    flat,
    hours,
    sorted_table,
)
from cache_pipeline_tests.query.declared import declared

DAY = hours(0, 24)
NOW = DAY.end + HOUR
HOURS = [hours(n, n + 1) for n in range(24)]


async def test_answer_with_enough_rows_is_complete_after_one_query():
    vendor = ScriptedVendor(flat(8))
    checked = check_answers_of(vendor)
    proven = await checked.verify(DAY)
    assert sorted_table(proven.rows).equals(sort_rows(vendor.rows(DAY)))
    assert vendor.asked == [DAY]
    [chunk] = checked.results
    assert (chunk.verdict, chunk.expected, chunk.source, chunk.got) == (
        Verdict.complete, 240, ExpectationSource.declaration, 192)  # fmt: skip
    assert (chunk.calls, chunk.seconds, proven.chunks) == (3, 0.5, (chunk,))


async def test_sparse_answer_is_verified_by_its_parts_once():
    vendor = ScriptedVendor(flat(3, 48))
    checked = check_answers_of(vendor)
    proven = await checked.verify(DAY)
    assert checked.verdicts == [Verdict.sparse]
    assert vendor.asked == [DAY, hours(0, 12), hours(12, 24)]
    assert sorted_table(proven.rows).equals(sort_rows(vendor.rows(DAY)))
    assert checked.results[0].calls == 9
    await checked.verify(hours(24, 48))
    assert checked.verdicts == [Verdict.sparse, Verdict.complete]
    assert len(vendor.asked) == 4


async def test_empty_answer_is_final_after_a_second_look():
    checked = check_answers_of(vendor := ScriptedVendor({}))
    empty = await checked.verify(DAY)
    assert empty.rows.num_rows == 0
    assert empty.second_looks == {SecondLook.unexpected: IntervalSet([DAY])}
    assert checked.verdicts == [Verdict.sparse]
    assert len(vendor.asked) == 1
    again = await checked.verify(DAY, EarlierRows(IntervalSet([DAY])))
    assert again.second_looks == {}


async def test_truncated_answer_is_replaced_by_its_parts():
    """G13 and G22."""
    vendor = ScriptedVendor(flat(10), cap=130)
    checked = check_answers_of(vendor)
    proven = await checked.verify(DAY)
    assert sorted_table(proven.rows).equals(sort_rows(vendor.rows(DAY)))
    assert checked.verdicts == [Verdict.truncated, Verdict.complete, Verdict.complete]
    assert vendor.asked == [DAY, hours(0, 12), hours(12, 24)]
    assert [chunk.verdict for chunk in proven.chunks] == checked.verdicts


async def test_truncated_parts_are_split_again():
    vendor = ScriptedVendor(flat(10), cap=35)
    checked = check_answers_of(vendor)
    proven = await checked.verify(DAY)
    assert sorted_table(proven.rows).equals(sort_rows(vendor.rows(DAY)))
    assert checked.verdicts.count(Verdict.truncated) == 3
    # The quarters of the day are as long as what was just truncated, so they are not fetched.
    assert len(vendor.asked) == 1 + 2 + 8


async def test_query_beyond_a_known_limit_is_split_first():
    vendor = ScriptedVendor(flat(10, 48), cap=130)
    checked = check_answers_of(vendor)
    await checked.verify(DAY)
    proven = await checked.verify(hours(24, 48))
    assert vendor.asked[3:] == [hours(24, 36), hours(36, 48)]
    assert proven.interval == hours(24, 48)
    assert sorted_table(proven.rows).equals(sort_rows(vendor.rows(hours(24, 48))))


async def test_truncated_tail_is_detected_above_the_threshold():
    report = declared(time_zone="UTC", group_by=["queueId"], metrics=["offered"], expected_groups=100)
    vendor = ScriptedVendor(flat(100), cap=2000)
    checked = check_answers_of(vendor, report)
    proven = await checked.verify(DAY)
    assert checked.verdicts[0] is Verdict.truncated
    assert sorted_table(proven.rows).equals(sort_rows(vendor.rows(DAY)))


async def test_answer_as_long_as_a_truncated_one_is_checked():
    """The second part keeps 90 % of what is expected, at the very length at which the whole was cut."""
    vendor = ScriptedVendor(flat(10), cap=108)
    checked = check_answers_of(vendor)
    proven = await checked.verify(DAY)
    assert sorted_table(proven.rows).equals(sort_rows(vendor.rows(DAY)))


async def test_part_with_every_row_is_checked_itself():
    vendor = ScriptedVendor(dict.fromkeys(range(7), 10), cap=40)
    checked = check_answers_of(vendor, min_truncation_rows=10)
    proven = await checked.verify(DAY)
    assert sorted_table(proven.rows).equals(sort_rows(vendor.rows(DAY)))
    assert checked.verdicts.count(Verdict.truncated) >= 2


async def test_day_with_one_busy_hour_is_sparse():
    vendor = ScriptedVendor({9: 4})
    checked = check_answers_of(vendor)
    proven = await checked.verify(DAY)
    assert sorted_table(proven.rows).equals(sort_rows(vendor.rows(DAY)))
    assert set(checked.verdicts) == {Verdict.sparse}
    assert checked.stats.shortest_truncated is None


async def test_truncated_single_bucket_fails_with_a_remedy():
    vendor = ScriptedVendor(flat(10), cap=5)
    checked = check_answers_of(vendor)
    with pytest.raises(IncompleteAnswer, match=r"queue_hour .* returned 5 rows, but 10 are expected .*expected_groups"):
        await checked.verify(DAY)
    assert Verdict.incomplete in checked.verdicts


async def test_later_chunk_of_truncated_buckets_fails_too():
    """The chunk is split to single buckets beforehand, so no bucket was ever part of a truncated larger query."""
    vendor = ScriptedVendor(flat(10, 48), cap=5)
    checked = check_answers_of(vendor)
    for day in (DAY, hours(24, 48)):
        with pytest.raises(IncompleteAnswer):
            await checked.verify(day)


async def test_bucket_at_a_known_limit_fails_above_the_threshold():
    vendor = ScriptedVendor(flat(10), cap=9)
    with pytest.raises(IncompleteAnswer):
        await check_answers_of(vendor).verify(DAY)


@dataclass
class BrokenOffOnce(ScriptedVendor):
    """A vendor without a limit whose first answer ends early, after some rows."""

    after: int = 1

    async def ask(self, interval: Interval) -> VendorResponse:
        self.cap = None if self.asked else self.after
        return await super().ask(interval)


@pytest.mark.parametrize("shape", [dict.fromkeys(range(24), 1), {0: 4}, {0: 1, 23: 3}, {22: 1, 23: 1}, {3: 1, 23: 3}])
async def test_one_broken_answer_does_not_fail_sparse_buckets(shape: dict[int, int]):
    vendor = BrokenOffOnce(shape)
    checked = check_answers_of(vendor)
    proven = await checked.verify(DAY)
    assert sorted_table(proven.rows).equals(sort_rows(vendor.rows(DAY)))
    assert Verdict.incomplete not in checked.verdicts
    assert checked.stats.shortest_truncated is None
    assert len(vendor.asked) == len(set(vendor.asked))


async def test_limit_is_probed_twice_without_repeating_an_interval():
    vendor = ScriptedVendor(flat(10), cap=5)
    with pytest.raises(IncompleteAnswer):
        await check_answers_of(vendor).verify(DAY)
    assert {hours(1, 24), hours(0, 23)} <= set(vendor.asked)
    assert len(vendor.asked) == len(set(vendor.asked)) == 1 + 2 + 24 + 2


@dataclass
class LimitedByBytes(ScriptedVendor):
    """Its limit is wider for an interval that begins an hour late."""

    async def ask(self, interval: Interval) -> VendorResponse:
        self.cap = 8 if interval.start == DAY.start + HOUR and interval.length > HOUR else 5
        return await super().ask(interval)


async def test_contradicting_longer_answer_does_not_clear_the_limit():
    with pytest.raises(IncompleteAnswer):
        await check_answers_of(LimitedByBytes({1: 10, **dict.fromkeys(range(2, 24), 1)})).verify(DAY)


async def test_parts_are_not_fetched_again_as_probes():
    vendor = ScriptedVendor(flat(10), cap=5)
    with pytest.raises(IncompleteAnswer):
        await check_answers_of(vendor).verify(hours(11, 24))
    assert len(vendor.asked) == len(set(vendor.asked))


async def test_a_single_thin_bucket_is_thin():
    checked = check_answers_of(vendor := ScriptedVendor(flat(2)))
    proven = await checked.verify(hours(3, 4))
    assert (checked.verdicts, proven.rows.num_rows, len(vendor.asked)) == ([Verdict.sparse], 2, 1)


@pytest.mark.parametrize("watermark", [-5, 0, 0.5, 6, 6.5])
async def test_buckets_after_the_watermark_are_never_incomplete(watermark: float):
    vendor = ScriptedVendor(flat(10), watermark=watermark)
    checked = check_answers_of(vendor)
    proven = await checked.verify(DAY)
    assert checked.verdicts == [Verdict.complete]
    assert checked.results[0].expected == 10 * max(0, int(watermark))
    assert len(vendor.asked) == 1
    assert proven.watermark == checked.results[0].watermark


async def test_provisional_buckets_do_not_change_expectations():
    checked = check_answers_of(vendor := ScriptedVendor(flat(10), watermark=12))
    await checked.verify(DAY)
    vendor.watermark = 24
    await checked.verify(hours(12, 24))
    assert checked.results[1].expected == 120


async def test_late_provisional_rows_are_not_truncation():
    vendor = ScriptedVendor(flat(2), watermark=12)
    checked = check_answers_of(vendor)
    original = vendor.ask

    async def ask(interval: Interval):
        vendor.watermark = 12 if interval == DAY else 20
        return await original(interval)

    checked.ask = ask
    await checked.verify(DAY)
    assert checked.verdicts == [Verdict.sparse]


async def test_unverified_answer_teaches_nothing():
    report = declared(time_zone="UTC", group_by=["queueId"], metrics=["offered"], expected_groups=None)
    vendor = ScriptedVendor(flat(8, 48))
    checked = check_answers_of(vendor, report)
    await checked.verify(DAY)
    vendor.cap = 100
    await checked.verify(hours(24, 48))
    assert checked.verdicts == [Verdict.unverified, Verdict.unverified]


@pytest.mark.parametrize("error", [SchemaMismatch("a row lacks offered"), RuntimeError("the job failed")])
async def test_failing_part_cancels_the_other_queries(error: Exception):
    def refuse(interval: Interval) -> Exception | None:
        return error if interval == hours(0, 12) else None

    vendor = ScriptedVendor(flat(3), refuse=refuse, seconds=0.01)
    original = vendor.ask

    async def slower(interval: Interval):
        vendor.seconds = 5 if interval == hours(12, 24) else 0.01
        return await original(interval)

    checked = check_answers_of(vendor)
    checked.ask = slower
    with pytest.raises(type(error), match=str(error)):
        await asyncio.wait_for(checked.verify(DAY), 2)
    assert vendor.in_flight == 0


def nodes(interval: Interval) -> int:
    """Return the total number of queries between an interval and its single buckets."""
    return 1 + sum(nodes(part) for part in split(interval, REPORT.step, REPORT.zone))


SHAPES = st.lists(
    st.one_of(
        st.lists(st.integers(0, 10), min_size=24, max_size=24),
        st.integers(0, 10).map(lambda groups: [groups] * 24),
        st.tuples(st.integers(0, 23), st.integers(1, 24), st.integers(1, 10)).map(
            lambda open_: [open_[2] if open_[0] <= hour < open_[0] + open_[1] else 0 for hour in range(24)]
        ),
    ),
    min_size=1,
    max_size=3,
)


@settings(max_examples=40, deadline=None)
@given(SHAPES, st.floats(0, 1), st.integers(2, 72))
@example([[10] * 7 + [0] * 17], 0.2, 24)
@example([[0] * 24], 0.0, 24)
@example([[0] * 24, [2] * 24], 0.0, 30)
@example([[0] * 12 + [10] * 7 + [0] * 5], 0.375, 19)
def test_verified_rows_are_true_within_the_query_bound(days, cut, watermark):
    """For any truth, a cap that holds a bucket and cuts a fifth of what is declared, sparse nights and a watermark."""
    truth = {24 * day + hour: groups for day, shape in enumerate(days) for hour, groups in enumerate(shape)}
    span = hours(0, len(truth))
    final = min(watermark, len(truth))
    cap = 10 + round(cut * max(0, 0.8 * 10 * final - 11))
    vendor = ScriptedVendor(truth, cap=cap, watermark=watermark)
    checked = check_answers_of(vendor, min_truncation_rows=10)
    proven = asyncio.run(checked.verify(span))
    settled = hours(0, final)
    assert sorted_table(proven.rows.within(settled)).equals(sort_rows(vendor.rows(settled)))
    assert len(vendor.asked) <= nodes(span)
    assert sum(chunk.calls for chunk in proven.chunks) == 3 * len(vendor.asked)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 10), min_size=24, max_size=24), st.integers(10, 120))
def test_similar_days_cost_no_more_than_the_first(shape, cap):
    truth = {24 * day + hour: groups for day in range(5) for hour, groups in enumerate(shape)}
    vendor = ScriptedVendor(truth, cap=cap)
    checked = check_answers_of(vendor, min_truncation_rows=10)
    costs: list[int] = []
    for day in range(5):
        before, span = len(vendor.asked), hours(24 * day, 24 * day + 24)
        proven = asyncio.run(checked.verify(span))
        assert sorted_table(proven.rows).equals(sort_rows(vendor.rows(span)))
        costs.append(len(vendor.asked) - before)
    # Beside a known limit a day may begin with its eight parts of three hours before each of its hours, and some probes.
    assert max(costs[1:]) <= max(costs[0], 24 + 8) + 4


@settings(max_examples=60, deadline=None)
@given(SHAPES, st.floats(0, 1), st.integers(1, 72), st.booleans())
def test_any_limit_is_detected(days, cut, watermark, by_group):
    """One row is enough, of the last hour or of the last group; only the shortest possible limit is known."""
    truth = {24 * day + hour: groups for day, shape in enumerate(days) for hour, groups in enumerate(shape)}
    span, settled = hours(0, len(truth)), hours(0, min(watermark, len(truth)))
    cap = 10 + round(cut * max(0, sum(truth.values()) - 11))
    vendor = ScriptedVendor(truth, cap=cap, watermark=watermark, cut_by_group=by_group)
    proven = asyncio.run(check_answers_of(vendor, min_truncation_rows=10).verify(span))
    assert sorted_table(proven.rows.within(settled)).equals(sort_rows(vendor.rows(settled)))


async def test_longest_answer_so_far_costs_two_probes():
    report = declared(time_zone="UTC", group_by=["queueId"], metrics=["offered"], expected_groups=100)
    vendor = ScriptedVendor(flat(100, 72))
    checked = check_answers_of(vendor, report)
    for day in (DAY, hours(24, 48), hours(48, 72)):
        await checked.verify(day)
    assert vendor.asked == [DAY, hours(0, 12), hours(12, 24), hours(24, 48), hours(48, 72)]
    assert [(chunk.verdict, chunk.calls, chunk.length, chunk.parts) for chunk in checked.results] == [
        (Verdict.complete, 9, 2400, 0), (Verdict.complete, 3, 2400, 0), (Verdict.complete, 3, 2400, 0)]  # fmt: skip


async def test_truncation_by_one_row_is_detected():
    report = declared(time_zone="UTC", group_by=["queueId"], metrics=["offered"], expected_groups=100)
    vendor = ScriptedVendor(flat(100), cap=2399)
    checked = check_answers_of(vendor, report)
    proven = await checked.verify(DAY)
    assert (checked.verdicts[0], checked.stats.shortest_truncated, checked.results[0].parts) == (
        Verdict.truncated,
        2399,
        2,
    )
    assert sorted_table(proven.rows).equals(sort_rows(vendor.rows(DAY)))


async def test_length_like_a_limit_needs_its_tail_checked():
    """Longer ones were whole; since then the vendor has lowered its limit."""
    report = declared(time_zone="UTC", group_by=["queueId"], metrics=["offered"], expected_groups=100)
    vendor = ScriptedVendor(flat(85), cap=2000)
    checked = check_answers_of(vendor, report)
    checked.stats = TruncationStats(longest_complete=5000)
    proven = await checked.verify(DAY)
    assert checked.verdicts[0] is Verdict.truncated
    assert sorted_table(proven.rows).equals(sort_rows(vendor.rows(DAY)))


async def test_answer_ending_early_has_its_tail_fetched():
    vendor = ScriptedVendor(flat(10, 48))
    checked = check_answers_of(vendor)
    await checked.verify(DAY)
    vendor.cap = 233
    proven = await checked.verify(hours(24, 48))
    assert vendor.asked[1:3] == [hours(24, 48), hours(47, 48)]
    assert checked.verdicts[1] is Verdict.truncated
    assert sorted_table(proven.rows).equals(sort_rows(vendor.rows(hours(24, 48))))


async def test_true_short_tail_costs_one_query():
    vendor = ScriptedVendor(flat(10, 24) | flat(10, 46) | {46: 10, 47: 2})
    checked = check_answers_of(vendor)
    await checked.verify(DAY)
    await checked.verify(hours(24, 48))
    assert (checked.verdicts, len(vendor.asked)) == ([Verdict.complete, Verdict.complete], 3)


async def test_halves_that_differ_take_the_place_of_the_whole():
    vendor = ScriptedVendor(dict.fromkeys(range(12), 10) | {12: 10}, cap=129)
    report = declared(time_zone="UTC", group_by=["queueId"], metrics=["offered"], expected_groups=None)
    checked = check_answers_of(vendor, report, min_truncation_rows=121)
    checked.knowledge.current.density.learn({bucket: vendor.groups.get(n, 0) for n, bucket in enumerate(HOURS)})
    proven = await checked.verify(DAY)
    assert vendor.asked == [DAY, hours(0, 12), hours(12, 24)]
    assert sum(chunk.calls for chunk in checked.results) == 9
    assert sorted_table(proven.rows).equals(sort_rows(vendor.rows(DAY)))


async def test_long_answer_without_expectation_has_its_tail_fetched():
    report = declared(time_zone="UTC", group_by=["queueId"], metrics=["offered"], expected_groups=None)
    vendor = ScriptedVendor(flat(100), cap=1500)
    checked = check_answers_of(vendor, report)
    proven = await checked.verify(DAY)
    assert sorted_table(proven.rows).equals(sort_rows(vendor.rows(DAY)))
    whole = check_answers_of(ScriptedVendor(flat(100)), report)
    await whole.verify(DAY)
    assert (whole.verdicts, whole.stats.longest_complete) == ([Verdict.unverified], -1)


async def test_restated_parts_replace_the_answer():
    vendor = ScriptedVendor(flat(3))
    checked = check_answers_of(vendor)
    original = vendor.ask

    async def ask(interval: Interval):
        answer = await original(interval)
        if interval != DAY:
            return answer
        old = answer.rows.to_table().to_pydict()
        old["offered"][5] += 1
        return replace(answer, rows=Rows.from_table(pa.table(old, schema=answer.rows.schema)))

    checked.ask = ask
    proven = await checked.verify(DAY)
    assert checked.verdicts[0] is Verdict.restated
    assert checked.stats.shortest_truncated is None
    assert sorted_table(proven.rows).equals(sort_rows(vendor.rows(DAY)))


def job(interval: Interval, *, is_alive: bool = False) -> OpenJob:
    return OpenJob(interval, NOW, is_alive)


@pytest.mark.parametrize(
    ("chunk", "is_part", "jobs", "expected"),
    [
        (DAY, False, [], (DAY,)),
        (DAY, False, [hours(0, 12)], Split((hours(0, 12), hours(12, 24)), IntervalSet())),
        (hours(0, 12), False, [DAY], Split((DAY,), IntervalSet())),
        # A longer job was given up when the chunk was split, so it is not taken up again.
        (hours(0, 12), True, [DAY], (hours(0, 12),)),
        (hours(0, 12), True, [DAY, hours(0, 6)], Split((hours(0, 6), hours(6, 12)), IntervalSet())),
    ],
)
def test_locked_chunk_uses_the_jobs_that_the_vendor_has(
    chunk: Interval, *, is_part: bool, jobs: list[Interval], expected: object
):
    locked = Locked(chunk, IntervalSet([chunk]), tuple(job(each) for each in jobs), is_part=is_part)
    chosen = locked.choose(check_answers_of(ScriptedVendor({})).knowledge.current, lambda _job: True)
    assert (chosen.queries if isinstance(chosen, Submitted) else chosen) == expected


def test_locked_chunk_waits_for_a_live_job_of_another_process():
    locked = Locked(DAY, IntervalSet([DAY]), (job(hours(6, 8), is_alive=True),))
    chosen = locked.choose(check_answers_of(ScriptedVendor({})).knowledge.current, lambda _job: True)
    assert chosen == RetryLater(DAY)


def test_part_that_others_stored_is_read_from_history():
    locked = Locked(DAY, IntervalSet([hours(0, 6)]))
    chosen = locked.choose(check_answers_of(ScriptedVendor({})).knowledge.current, lambda _job: True)
    assert chosen == Split((hours(0, 6),), IntervalSet([hours(6, 24)]))


def test_answer_that_history_holds_is_not_read_again():
    """A job may stay with the vendor after its rows were stored; its answer would never get newer."""
    rule = GapRule(REPORT, NOW)
    stored = FetchTime(IntervalSet([hours(20, 24)]), NOW)
    coverage = Coverage(final=IntervalSet([hours(0, 20)]), provisional=stored.intervals, fetch_times=(stored,))
    assert rule.min_requested_at(DAY, stored.intervals, coverage) > NOW
    assert rule.min_requested_at(DAY, stored.intervals, Coverage()) <= NOW
