import asyncio
from dataclasses import dataclass, replace

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cache_pipeline.errors import SchemaMismatch
from cache_pipeline.fetch.completeness_checker import IncompleteAnswer
from cache_pipeline.fetch.vendor_response import VendorResponse
from cache_pipeline.query.calendar import split
from cache_pipeline.query.completeness import ExpectationSource, TruncationStats, Verdict
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.schema import sort_rows
from cache_pipeline.rows.rows import Rows
from cache_pipeline_tests.fetch.scripted_vendor import (
    HOUR,
    REPORT,
    ScriptedVendor,
    checker_for,
    flat,
    hours,
    sorted_table,
)
from cache_pipeline_tests.query.declared import declared

DAY = hours(0, 24)
HOURS = [hours(n, n + 1) for n in range(24)]


async def test_answer_with_enough_rows_is_complete_after_one_query():
    vendor = ScriptedVendor(flat(8))
    check = checker_for(vendor)
    verified = await check.checker.verify(DAY)
    assert sorted_table(verified.rows).equals(sort_rows(vendor.rows(DAY)))
    assert vendor.asked == [DAY]
    [chunk] = check.chunks
    assert (chunk.verdict, chunk.expected, chunk.source, chunk.got) == (
        Verdict.complete, 240, ExpectationSource.declaration, 192)  # fmt: skip
    assert (chunk.calls, chunk.seconds, verified.chunks) == (3, 0.5, (chunk,))


async def test_sparse_answer_is_verified_by_its_parts_once():
    vendor = ScriptedVendor(flat(3, 48))
    check = checker_for(vendor)
    verified = await check.checker.verify(DAY)
    assert check.verdicts == [Verdict.sparse]
    assert vendor.asked == [DAY, hours(0, 12), hours(12, 24)]
    assert sorted_table(verified.rows).equals(sort_rows(vendor.rows(DAY)))
    assert check.chunks[0].calls == 9
    await check.checker.verify(hours(24, 48))
    assert check.verdicts == [Verdict.sparse, Verdict.complete]
    assert len(vendor.asked) == 4


async def test_empty_answer_is_verified():
    check = checker_for(vendor := ScriptedVendor({}))
    assert (await check.checker.verify(DAY)).rows.num_rows == 0
    assert check.verdicts == [Verdict.sparse]
    assert len(vendor.asked) == 3


async def test_truncated_answer_is_replaced_by_its_parts():
    """G13 and G22."""
    vendor = ScriptedVendor(flat(10), cap=130)
    check = checker_for(vendor)
    verified = await check.checker.verify(DAY)
    assert sorted_table(verified.rows).equals(sort_rows(vendor.rows(DAY)))
    assert check.verdicts == [Verdict.truncated, Verdict.complete, Verdict.complete]
    assert vendor.asked == [DAY, hours(0, 12), hours(12, 24)]
    assert [chunk.verdict for chunk in verified.chunks] == check.verdicts


async def test_truncated_parts_are_split_again():
    vendor = ScriptedVendor(flat(10), cap=35)
    check = checker_for(vendor)
    verified = await check.checker.verify(DAY)
    assert sorted_table(verified.rows).equals(sort_rows(vendor.rows(DAY)))
    assert check.verdicts.count(Verdict.truncated) == 7
    assert len(vendor.asked) == 1 + 2 + 4 + 8


async def test_query_beyond_a_known_limit_is_split_first():
    vendor = ScriptedVendor(flat(10, 48), cap=130)
    check = checker_for(vendor)
    await check.checker.verify(DAY)
    verified = await check.checker.verify(hours(24, 48))
    assert vendor.asked[3:] == [hours(24, 36), hours(36, 48)]
    assert verified.interval == hours(24, 48)
    assert sorted_table(verified.rows).equals(sort_rows(vendor.rows(hours(24, 48))))


async def test_truncated_tail_is_detected_above_the_threshold():
    report = declared(time_zone="UTC", group_by=["queueId"], metrics=["offered"], expected_groups=100)
    vendor = ScriptedVendor(flat(100), cap=2000)
    check = checker_for(vendor, report)
    verified = await check.checker.verify(DAY)
    assert check.verdicts[0] is Verdict.truncated
    assert sorted_table(verified.rows).equals(sort_rows(vendor.rows(DAY)))


async def test_answer_as_long_as_a_truncated_one_is_checked():
    """The second part has 90 % of the expected rows, at exactly the length at which the whole was truncated."""
    vendor = ScriptedVendor(flat(10), cap=108)
    check = checker_for(vendor)
    verified = await check.checker.verify(DAY)
    assert sorted_table(verified.rows).equals(sort_rows(vendor.rows(DAY)))


async def test_part_with_every_row_is_checked_itself():
    vendor = ScriptedVendor(dict.fromkeys(range(7), 10), cap=40)
    check = checker_for(vendor)
    verified = await check.checker.verify(DAY)
    assert sorted_table(verified.rows).equals(sort_rows(vendor.rows(DAY)))
    assert check.verdicts.count(Verdict.truncated) >= 2


async def test_day_with_one_busy_hour_is_sparse():
    vendor = ScriptedVendor({9: 4})
    check = checker_for(vendor)
    verified = await check.checker.verify(DAY)
    assert sorted_table(verified.rows).equals(sort_rows(vendor.rows(DAY)))
    assert set(check.verdicts) == {Verdict.sparse}
    assert check.checker.truncation_stats.shortest_truncated is None


async def test_truncated_single_bucket_fails_with_a_remedy():
    vendor = ScriptedVendor(flat(10), cap=5)
    check = checker_for(vendor)
    with pytest.raises(IncompleteAnswer, match=r"queue_hour .* returned 5 rows, but 10 are expected .*expected_groups"):
        await check.checker.verify(DAY)
    assert Verdict.incomplete in check.verdicts


async def test_later_chunk_of_truncated_buckets_fails_too():
    """It is split into single buckets first, so none of them was compared with a larger query."""
    vendor = ScriptedVendor(flat(10, 48), cap=5)
    check = checker_for(vendor)
    for day in (DAY, hours(24, 48)):
        with pytest.raises(IncompleteAnswer):
            await check.checker.verify(day)


async def test_bucket_at_a_known_limit_fails_above_the_threshold():
    vendor = ScriptedVendor(flat(10), cap=9)
    with pytest.raises(IncompleteAnswer):
        await checker_for(vendor).checker.verify(DAY)


@dataclass
class BrokenOffOnce(ScriptedVendor):
    """A vendor whose first answer ends after so many rows, though it has no limit."""

    after: int = 1

    async def ask(self, interval: Interval) -> VendorResponse:
        self.cap = None if self.asked else self.after
        return await super().ask(interval)


@pytest.mark.parametrize("shape", [dict.fromkeys(range(24), 1), {0: 4}, {0: 1, 23: 3}, {22: 1, 23: 1}, {3: 1, 23: 3}])
async def test_one_broken_answer_does_not_fail_sparse_buckets(shape: dict[int, int]):
    vendor = BrokenOffOnce(shape)
    check = checker_for(vendor)
    verified = await check.checker.verify(DAY)
    assert sorted_table(verified.rows).equals(sort_rows(vendor.rows(DAY)))
    assert Verdict.incomplete not in check.verdicts
    assert check.checker.truncation_stats.shortest_truncated is None
    assert len(vendor.asked) == len(set(vendor.asked))


async def test_limit_is_probed_twice_without_repeating_an_interval():
    vendor = ScriptedVendor(flat(10), cap=5)
    with pytest.raises(IncompleteAnswer):
        await checker_for(vendor).checker.verify(DAY)
    assert {hours(1, 24), hours(0, 23)} <= set(vendor.asked)
    assert len(vendor.asked) == len(set(vendor.asked)) == 1 + 2 + 4 + 8 + 24 + 2


@dataclass
class LimitedByBytes(ScriptedVendor):
    """A vendor with a higher limit for an interval that starts an hour later."""

    async def ask(self, interval: Interval) -> VendorResponse:
        self.cap = 8 if interval.start == DAY.start + HOUR and interval.length > HOUR else 5
        return await super().ask(interval)


async def test_contradicting_longer_answer_does_not_clear_the_limit():
    with pytest.raises(IncompleteAnswer):
        await checker_for(LimitedByBytes({1: 10, **dict.fromkeys(range(2, 24), 1)})).checker.verify(DAY)


async def test_parts_are_not_fetched_again_as_probes():
    vendor = ScriptedVendor(flat(10), cap=5)
    with pytest.raises(IncompleteAnswer):
        await checker_for(vendor).checker.verify(hours(11, 24))
    assert len(vendor.asked) == len(set(vendor.asked))


async def test_single_bucket_with_few_rows_is_sparse():
    check = checker_for(vendor := ScriptedVendor(flat(2)))
    verified = await check.checker.verify(hours(3, 4))
    assert (check.verdicts, verified.rows.num_rows, len(vendor.asked)) == ([Verdict.sparse], 2, 1)


@pytest.mark.parametrize("watermark", [-5, 0, 0.5, 6, 6.5])
async def test_buckets_after_the_watermark_are_never_incomplete(watermark: float):
    vendor = ScriptedVendor(flat(10), watermark=watermark)
    check = checker_for(vendor)
    verified = await check.checker.verify(DAY)
    assert check.verdicts == [Verdict.complete]
    assert check.chunks[0].expected == 10 * max(0, int(watermark))
    assert len(vendor.asked) == 1
    assert verified.watermark == check.chunks[0].watermark


async def test_provisional_buckets_do_not_change_expectations():
    check = checker_for(vendor := ScriptedVendor(flat(10), watermark=12))
    await check.checker.verify(DAY)
    vendor.watermark = 24
    await check.checker.verify(hours(12, 24))
    assert check.chunks[1].expected == 120


async def test_late_provisional_rows_are_not_truncation():
    vendor = ScriptedVendor(flat(2), watermark=12)
    check = checker_for(vendor)
    original = vendor.ask

    async def ask(interval: Interval):
        vendor.watermark = 12 if interval == DAY else 20
        return await original(interval)

    check.checker.fetch = ask
    await check.checker.verify(DAY)
    assert check.verdicts == [Verdict.sparse]


async def test_first_answer_without_expectation_is_unverified():
    report = declared(time_zone="UTC", group_by=["queueId"], metrics=["offered"], expected_groups=None)
    vendor = ScriptedVendor(flat(8, 48))
    check = checker_for(vendor, report)
    await check.checker.verify(DAY)
    vendor.cap = 100
    await check.checker.verify(hours(24, 48))
    assert check.verdicts == [Verdict.unverified, Verdict.truncated, Verdict.complete, Verdict.complete]


@pytest.mark.parametrize("error", [SchemaMismatch("a row lacks offered"), RuntimeError("the job failed")])
async def test_failing_part_cancels_the_other_queries(error: Exception):
    def refuse(interval: Interval) -> Exception | None:
        return error if interval == hours(0, 12) else None

    vendor = ScriptedVendor(flat(3), refuse=refuse, seconds=0.01)
    original = vendor.ask

    async def slower(interval: Interval):
        vendor.seconds = 5 if interval == hours(12, 24) else 0.01
        return await original(interval)

    check = checker_for(vendor)
    check.checker.fetch = slower
    with pytest.raises(type(error), match=str(error)):
        await asyncio.wait_for(check.checker.verify(DAY), 2)
    assert vendor.in_flight == 0


def nodes(interval: Interval) -> int:
    """Return the number of queries if an interval is split all the way down to its buckets."""
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
    """This holds for any truth, cap of at least a bucket, sparse nights and watermark."""
    truth = {24 * day + hour: groups for day, shape in enumerate(days) for hour, groups in enumerate(shape)}
    span = hours(0, len(truth))
    final = min(watermark, len(truth))
    cap = 10 + round(cut * max(0, 0.8 * 10 * final - 11))
    vendor = ScriptedVendor(truth, cap=cap, watermark=watermark)
    check = checker_for(vendor)
    verified = asyncio.run(check.checker.verify(span))
    final_hours = hours(0, final)
    assert sorted_table(verified.rows.within(final_hours)).equals(sort_rows(vendor.rows(final_hours)))
    assert len(vendor.asked) <= nodes(span)
    assert sum(chunk.calls for chunk in check.chunks) == 3 * len(vendor.asked)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 10), min_size=24, max_size=24), st.integers(10, 120))
def test_similar_days_cost_no_more_than_the_first(shape, cap):
    truth = {24 * day + hour: groups for day in range(5) for hour, groups in enumerate(shape)}
    vendor = ScriptedVendor(truth, cap=cap)
    check = checker_for(vendor)
    costs: list[int] = []
    for day in range(5):
        before, span = len(vendor.asked), hours(24 * day, 24 * day + 24)
        verified = asyncio.run(check.checker.verify(span))
        assert sorted_table(verified.rows).equals(sort_rows(vendor.rows(span)))
        costs.append(len(vendor.asked) - before)
    assert max(costs[1:]) <= costs[0]


@settings(max_examples=60, deadline=None)
@given(SHAPES, st.floats(0, 1), st.integers(1, 72), st.booleans())
def test_any_limit_is_detected(days, cut, watermark, by_group):
    """A single missing row is detected, of the last hour or of the last group."""
    truth = {24 * day + hour: groups for day, shape in enumerate(days) for hour, groups in enumerate(shape)}
    span, final_hours = hours(0, len(truth)), hours(0, min(watermark, len(truth)))
    cap = 10 + round(cut * max(0, sum(truth.values()) - 11))
    vendor = ScriptedVendor(truth, cap=cap, watermark=watermark, cut_by_group=by_group)
    verified = asyncio.run(checker_for(vendor, min_truncation_rows=10).checker.verify(span))
    assert sorted_table(verified.rows.within(final_hours)).equals(sort_rows(vendor.rows(final_hours)))


async def test_longest_answer_so_far_costs_one_tail_query():
    report = declared(time_zone="UTC", group_by=["queueId"], metrics=["offered"], expected_groups=100)
    vendor = ScriptedVendor(flat(100, 72))
    check = checker_for(vendor, report)
    for day in (DAY, hours(24, 48), hours(48, 72)):
        await check.checker.verify(day)
    assert vendor.asked == [DAY, hours(23, 24), hours(24, 48), hours(48, 72)]
    assert [(chunk.verdict, chunk.calls, chunk.length, chunk.parts) for chunk in check.chunks] == [
        (Verdict.complete, 6, 2400, 0), (Verdict.complete, 3, 2400, 0), (Verdict.complete, 3, 2400, 0)]  # fmt: skip


async def test_truncation_by_one_row_is_detected():
    report = declared(time_zone="UTC", group_by=["queueId"], metrics=["offered"], expected_groups=100)
    vendor = ScriptedVendor(flat(100), cap=2399)
    check = checker_for(vendor, report)
    verified = await check.checker.verify(DAY)
    assert (check.verdicts[0], check.checker.truncation_stats.shortest_truncated, check.chunks[0].parts) == (
        Verdict.truncated,
        2399,
        2,
    )
    assert sorted_table(verified.rows).equals(sort_rows(vendor.rows(DAY)))


async def test_length_like_a_limit_needs_its_tail_checked():
    """Longer answers were complete; since then the vendor has lowered its limit."""
    report = declared(time_zone="UTC", group_by=["queueId"], metrics=["offered"], expected_groups=100)
    vendor = ScriptedVendor(flat(85), cap=2000)
    check = checker_for(vendor, report)
    check.checker.truncation_stats = TruncationStats(longest_complete=5000)
    verified = await check.checker.verify(DAY)
    assert check.verdicts[0] is Verdict.truncated
    assert sorted_table(verified.rows).equals(sort_rows(vendor.rows(DAY)))


async def test_answer_ending_early_has_its_tail_fetched():
    vendor = ScriptedVendor(flat(10, 48))
    check = checker_for(vendor)
    await check.checker.verify(DAY)
    vendor.cap = 233
    verified = await check.checker.verify(hours(24, 48))
    assert vendor.asked[1:3] == [hours(24, 48), hours(47, 48)]
    assert check.verdicts[1] is Verdict.truncated
    assert sorted_table(verified.rows).equals(sort_rows(vendor.rows(hours(24, 48))))


async def test_true_short_tail_costs_one_query():
    vendor = ScriptedVendor(flat(10, 24) | flat(10, 46) | {46: 10, 47: 2})
    check = checker_for(vendor)
    await check.checker.verify(DAY)
    await check.checker.verify(hours(24, 48))
    assert (check.verdicts, len(vendor.asked)) == ([Verdict.complete, Verdict.complete], 3)


async def test_tail_that_is_a_part_is_fetched_once():
    vendor = ScriptedVendor(dict.fromkeys(range(12), 10) | {12: 10}, cap=129)
    report = declared(time_zone="UTC", group_by=["queueId"], metrics=["offered"], expected_groups=None)
    check = checker_for(vendor, report, min_truncation_rows=121)
    check.checker.density.learn({bucket: vendor.groups.get(n, 0) for n, bucket in enumerate(HOURS)})
    verified = await check.checker.verify(DAY)
    assert vendor.asked == [DAY, hours(12, 24), hours(0, 12)]
    assert sum(chunk.calls for chunk in check.chunks) == 9
    assert sorted_table(verified.rows).equals(sort_rows(vendor.rows(DAY)))


async def test_long_answer_without_expectation_has_its_tail_fetched():
    report = declared(time_zone="UTC", group_by=["queueId"], metrics=["offered"], expected_groups=None)
    vendor = ScriptedVendor(flat(100), cap=1500)
    check = checker_for(vendor, report)
    verified = await check.checker.verify(DAY)
    assert sorted_table(verified.rows).equals(sort_rows(vendor.rows(DAY)))
    complete = checker_for(ScriptedVendor(flat(100)), report)
    await complete.checker.verify(DAY)
    assert (complete.verdicts, complete.checker.truncation_stats.longest_complete) == ([Verdict.complete], 2400)


async def test_restated_parts_replace_the_answer():
    vendor = ScriptedVendor(flat(3))
    check = checker_for(vendor)
    original = vendor.ask

    async def ask(interval: Interval):
        answer = await original(interval)
        if interval != DAY:
            return answer
        old = answer.rows.to_table().to_pydict()
        old["offered"][5] += 1
        return replace(answer, rows=Rows.from_table(pa.table(old, schema=answer.rows.schema)))

    check.checker.fetch = ask
    verified = await check.checker.verify(DAY)
    assert check.verdicts[0] is Verdict.restated
    assert check.checker.truncation_stats.shortest_truncated is None
    assert sorted_table(verified.rows).equals(sort_rows(vendor.rows(DAY)))
