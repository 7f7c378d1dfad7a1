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


async def test_an_answer_with_enough_rows_is_whole_after_one_query():
    vendor = ScriptedVendor(flat(8))
    judged = checker_for(vendor)
    proven = await judged.checker.verify(DAY)
    assert sorted_table(proven.rows).equals(sort_rows(vendor.rows(DAY)))
    assert vendor.asked == [DAY]
    [chunk] = judged.said
    assert (chunk.verdict, chunk.expected, chunk.source, chunk.got) == (
        Verdict.complete, 240, ExpectationSource.declaration, 192)  # fmt: skip
    assert (chunk.calls, chunk.seconds, proven.chunks) == (3, 0.5, (chunk,))


async def test_a_thin_answer_is_proven_by_its_parts_and_then_known():
    vendor = ScriptedVendor(flat(3, 48))
    judged = checker_for(vendor)
    proven = await judged.checker.verify(DAY)
    assert judged.verdicts == [Verdict.sparse]
    assert vendor.asked == [DAY, hours(0, 12), hours(12, 24)]
    assert sorted_table(proven.rows).equals(sort_rows(vendor.rows(DAY)))
    assert judged.said[0].calls == 9
    await judged.checker.verify(hours(24, 48))
    assert judged.verdicts == [Verdict.sparse, Verdict.complete]
    assert len(vendor.asked) == 4


async def test_an_empty_answer_is_proven_empty():
    judged = checker_for(vendor := ScriptedVendor({}))
    assert (await judged.checker.verify(DAY)).rows.num_rows == 0
    assert judged.verdicts == [Verdict.sparse]
    assert len(vendor.asked) == 3


async def test_of_a_truncated_answer_only_the_parts_count():
    """G13 and G22."""
    vendor = ScriptedVendor(flat(10), cap=130)
    judged = checker_for(vendor)
    proven = await judged.checker.verify(DAY)
    assert sorted_table(proven.rows).equals(sort_rows(vendor.rows(DAY)))
    assert judged.verdicts == [Verdict.truncated, Verdict.complete, Verdict.complete]
    assert vendor.asked == [DAY, hours(0, 12), hours(12, 24)]
    assert [chunk.verdict for chunk in proven.chunks] == judged.verdicts


async def test_parts_that_are_truncated_are_split_again():
    vendor = ScriptedVendor(flat(10), cap=35)
    judged = checker_for(vendor)
    proven = await judged.checker.verify(DAY)
    assert sorted_table(proven.rows).equals(sort_rows(vendor.rows(DAY)))
    assert judged.verdicts.count(Verdict.truncated) == 7
    assert len(vendor.asked) == 1 + 2 + 4 + 8


async def test_a_later_query_that_would_be_cut_is_split_beforehand():
    vendor = ScriptedVendor(flat(10, 48), cap=130)
    judged = checker_for(vendor)
    await judged.checker.verify(DAY)
    proven = await judged.checker.verify(hours(24, 48))
    assert vendor.asked[3:] == [hours(24, 36), hours(36, 48)]
    assert proven.interval == hours(24, 48)
    assert sorted_table(proven.rows).equals(sort_rows(vendor.rows(hours(24, 48))))


async def test_a_cut_that_keeps_more_than_four_fifths_but_loses_the_tail_is_caught():
    report = declared(time_zone="UTC", group_by=["queueId"], metrics=["offered"], expected_groups=100)
    vendor = ScriptedVendor(flat(100), cap=2000)
    judged = checker_for(vendor, report)
    proven = await judged.checker.verify(DAY)
    assert judged.verdicts[0] is Verdict.truncated
    assert sorted_table(proven.rows).equals(sort_rows(vendor.rows(DAY)))


async def test_an_answer_exactly_as_long_as_a_cut_one_is_not_believed():
    """The second part keeps 90 % of what is expected, at the very length at which the whole was cut."""
    vendor = ScriptedVendor(flat(10), cap=108)
    judged = checker_for(vendor)
    proven = await judged.checker.verify(DAY)
    assert sorted_table(proven.rows).equals(sort_rows(vendor.rows(DAY)))


async def test_a_part_that_holds_every_row_may_be_cut_like_the_whole_and_is_looked_into():
    vendor = ScriptedVendor(dict.fromkeys(range(7), 10), cap=40)
    judged = checker_for(vendor)
    proven = await judged.checker.verify(DAY)
    assert sorted_table(proven.rows).equals(sort_rows(vendor.rows(DAY)))
    assert judged.verdicts.count(Verdict.truncated) >= 2


async def test_a_thin_day_with_all_its_rows_in_one_hour_ends_thin():
    vendor = ScriptedVendor({9: 4})
    judged = checker_for(vendor)
    proven = await judged.checker.verify(DAY)
    assert sorted_table(proven.rows).equals(sort_rows(vendor.rows(DAY)))
    assert set(judged.verdicts) == {Verdict.sparse}
    assert judged.checker.truncation_stats.shortest_truncated is None


async def test_a_single_bucket_that_is_still_cut_fails_and_says_what_to_mend():
    vendor = ScriptedVendor(flat(10), cap=5)
    judged = checker_for(vendor)
    with pytest.raises(IncompleteAnswer, match=r"queue_hour .* gives 5 rows where 10 are expected .*expected_groups"):
        await judged.checker.verify(DAY)
    assert Verdict.incomplete in judged.verdicts


async def test_a_later_chunk_of_cut_buckets_fails_too():
    """It is split beforehand, to single buckets, of which none was seen cut within a larger query of its own."""
    vendor = ScriptedVendor(flat(10, 48), cap=5)
    judged = checker_for(vendor)
    for day in (DAY, hours(24, 48)):
        with pytest.raises(IncompleteAnswer):
            await judged.checker.verify(day)


async def test_a_single_bucket_at_the_known_cut_fails_even_with_four_fifths_of_its_rows():
    vendor = ScriptedVendor(flat(10), cap=9)
    with pytest.raises(IncompleteAnswer):
        await checker_for(vendor).checker.verify(DAY)


@dataclass
class BrokenOffOnce(ScriptedVendor):
    """Its first answer ends after so many rows; it has no limit."""

    after: int = 1

    async def ask(self, interval: Interval) -> VendorResponse:
        self.cap = None if self.asked else self.after
        return await super().ask(interval)


@pytest.mark.parametrize("shape", [dict.fromkeys(range(24), 1), {0: 4}, {0: 1, 23: 3}, {22: 1, 23: 1}, {3: 1, 23: 3}])
async def test_thin_buckets_are_not_refused_for_an_answer_that_was_broken_off_once(shape: dict[int, int]):
    vendor = BrokenOffOnce(shape)
    judged = checker_for(vendor)
    proven = await judged.checker.verify(DAY)
    assert sorted_table(proven.rows).equals(sort_rows(vendor.rows(DAY)))
    assert Verdict.incomplete not in judged.verdicts
    assert judged.checker.truncation_stats.shortest_truncated is None
    assert len(vendor.asked) == len(set(vendor.asked))


async def test_a_limit_that_single_buckets_meet_is_tried_twice_more_and_no_interval_is_asked_twice():
    vendor = ScriptedVendor(flat(10), cap=5)
    with pytest.raises(IncompleteAnswer):
        await checker_for(vendor).checker.verify(DAY)
    assert {hours(1, 24), hours(0, 23)} <= set(vendor.asked)
    assert len(vendor.asked) == len(set(vendor.asked)) == 1 + 2 + 4 + 8 + 24 + 2


@dataclass
class LimitedByBytes(ScriptedVendor):
    """Its limit is wider for an interval that begins an hour late."""

    async def ask(self, interval: Interval) -> VendorResponse:
        self.cap = 8 if interval.start == DAY.start + HOUR and interval.length > HOUR else 5
        return await super().ask(interval)


async def test_a_longer_answer_that_says_otherwise_of_a_bucket_leaves_it_refused():
    with pytest.raises(IncompleteAnswer):
        await checker_for(LimitedByBytes({1: 10, **dict.fromkeys(range(2, 24), 1)})).checker.verify(DAY)


async def test_what_an_interval_is_split_into_is_not_asked_once_more():
    vendor = ScriptedVendor(flat(10), cap=5)
    with pytest.raises(IncompleteAnswer):
        await checker_for(vendor).checker.verify(hours(11, 24))
    assert len(vendor.asked) == len(set(vendor.asked))


async def test_a_single_thin_bucket_is_thin():
    judged = checker_for(vendor := ScriptedVendor(flat(2)))
    proven = await judged.checker.verify(hours(3, 4))
    assert (judged.verdicts, proven.rows.num_rows, len(vendor.asked)) == ([Verdict.sparse], 2, 1)


@pytest.mark.parametrize("watermark", [-5, 0, 0.5, 6, 6.5])
async def test_what_lies_beyond_the_watermark_is_never_called_incomplete(watermark: float):
    vendor = ScriptedVendor(flat(10), watermark=watermark)
    judged = checker_for(vendor)
    proven = await judged.checker.verify(DAY)
    assert judged.verdicts == [Verdict.complete]
    assert judged.said[0].expected == 10 * max(0, int(watermark))
    assert len(vendor.asked) == 1
    assert proven.watermark == judged.said[0].watermark


async def test_provisional_buckets_teach_nothing():
    judged = checker_for(vendor := ScriptedVendor(flat(10), watermark=12))
    await judged.checker.verify(DAY)
    vendor.watermark = 24
    await judged.checker.verify(hours(12, 24))
    assert judged.said[1].expected == 120


async def test_figures_that_arrive_beyond_the_watermark_between_two_queries_are_no_truncation():
    vendor = ScriptedVendor(flat(2), watermark=12)
    judged = checker_for(vendor)
    original = vendor.ask

    async def ask(interval: Interval):
        vendor.watermark = 12 if interval == DAY else 20
        return await original(interval)

    judged.checker.fetch = ask
    await judged.checker.verify(DAY)
    assert judged.verdicts == [Verdict.sparse]


async def test_where_nothing_is_known_the_first_answer_is_unjudged_and_teaches():
    report = declared(time_zone="UTC", group_by=["queueId"], metrics=["offered"], expected_groups=None)
    vendor = ScriptedVendor(flat(8, 48))
    judged = checker_for(vendor, report)
    await judged.checker.verify(DAY)
    vendor.cap = 100
    await judged.checker.verify(hours(24, 48))
    assert judged.verdicts == [Verdict.unverified, Verdict.truncated, Verdict.complete, Verdict.complete]


@pytest.mark.parametrize("error", [SchemaMismatch("a row lacks offered"), RuntimeError("the job failed")])
async def test_when_a_part_fails_all_fails_and_no_query_is_left_in_flight(error: Exception):
    def refuse(interval: Interval) -> Exception | None:
        return error if interval == hours(0, 12) else None

    vendor = ScriptedVendor(flat(3), refuse=refuse, seconds=0.01)
    original = vendor.ask

    async def slower(interval: Interval):
        vendor.seconds = 5 if interval == hours(12, 24) else 0.01
        return await original(interval)

    judged = checker_for(vendor)
    judged.checker.fetch = slower
    with pytest.raises(type(error), match=str(error)):
        await asyncio.wait_for(judged.checker.verify(DAY), 2)
    assert vendor.in_flight == 0


def nodes(interval: Interval) -> int:
    """How many queries there are between an interval and its single buckets, all told."""
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
def test_what_is_proven_is_the_truth_and_takes_no_more_queries_than_there_are_parts(days, cut, watermark):
    """For any truth, a cap that holds a bucket and cuts a fifth of what is declared, sparse nights and a watermark."""
    truth = {24 * day + hour: groups for day, shape in enumerate(days) for hour, groups in enumerate(shape)}
    span = hours(0, len(truth))
    final = min(watermark, len(truth))
    cap = 10 + round(cut * max(0, 0.8 * 10 * final - 11))
    vendor = ScriptedVendor(truth, cap=cap, watermark=watermark)
    judged = checker_for(vendor)
    proven = asyncio.run(judged.checker.verify(span))
    settled = hours(0, final)
    assert sorted_table(proven.rows.within(settled)).equals(sort_rows(vendor.rows(settled)))
    assert len(vendor.asked) <= nodes(span)
    assert sum(chunk.calls for chunk in judged.said) == 3 * len(vendor.asked)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 10), min_size=24, max_size=24), st.integers(10, 120))
def test_days_alike_are_all_proven_right_and_the_later_ones_cost_no_more_than_the_first(shape, cap):
    truth = {24 * day + hour: groups for day in range(5) for hour, groups in enumerate(shape)}
    vendor = ScriptedVendor(truth, cap=cap)
    judged = checker_for(vendor)
    costs: list[int] = []
    for day in range(5):
        before, span = len(vendor.asked), hours(24 * day, 24 * day + 24)
        proven = asyncio.run(judged.checker.verify(span))
        assert sorted_table(proven.rows).equals(sort_rows(vendor.rows(span)))
        costs.append(len(vendor.asked) - before)
    assert max(costs[1:]) <= costs[0]


@settings(max_examples=60, deadline=None)
@given(SHAPES, st.floats(0, 1), st.integers(1, 72), st.booleans())
def test_a_limit_of_any_length_is_found_out_however_little_it_cuts_off(days, cut, watermark, by_group):
    """One row is enough, of the last hour or of the last group; only the shortest possible limit is known."""
    truth = {24 * day + hour: groups for day, shape in enumerate(days) for hour, groups in enumerate(shape)}
    span, settled = hours(0, len(truth)), hours(0, min(watermark, len(truth)))
    cap = 10 + round(cut * max(0, sum(truth.values()) - 11))
    vendor = ScriptedVendor(truth, cap=cap, watermark=watermark, cut_by_group=by_group)
    proven = asyncio.run(checker_for(vendor, min_truncation_rows=10).checker.verify(span))
    assert sorted_table(proven.rows.within(settled)).equals(sort_rows(vendor.rows(settled)))


async def test_an_answer_longer_than_any_before_costs_one_query_more_and_the_next_ones_do_not():
    report = declared(time_zone="UTC", group_by=["queueId"], metrics=["offered"], expected_groups=100)
    vendor = ScriptedVendor(flat(100, 72))
    judged = checker_for(vendor, report)
    for day in (DAY, hours(24, 48), hours(48, 72)):
        await judged.checker.verify(day)
    assert vendor.asked == [DAY, hours(23, 24), hours(24, 48), hours(48, 72)]
    assert [(chunk.verdict, chunk.calls, chunk.length, chunk.parts) for chunk in judged.said] == [
        (Verdict.complete, 6, 2400, 0), (Verdict.complete, 3, 2400, 0), (Verdict.complete, 3, 2400, 0)]  # fmt: skip


async def test_a_cut_that_keeps_all_but_one_row_is_caught():
    report = declared(time_zone="UTC", group_by=["queueId"], metrics=["offered"], expected_groups=100)
    vendor = ScriptedVendor(flat(100), cap=2399)
    judged = checker_for(vendor, report)
    proven = await judged.checker.verify(DAY)
    assert (judged.verdicts[0], judged.checker.truncation_stats.shortest_truncated, judged.said[0].parts) == (
        Verdict.truncated,
        2399,
        2,
    )
    assert sorted_table(proven.rows).equals(sort_rows(vendor.rows(DAY)))


async def test_a_length_that_looks_like_a_limit_is_not_believed_without_its_tail():
    """Longer ones were whole; since then the vendor has lowered its limit."""
    report = declared(time_zone="UTC", group_by=["queueId"], metrics=["offered"], expected_groups=100)
    vendor = ScriptedVendor(flat(85), cap=2000)
    judged = checker_for(vendor, report)
    judged.checker.truncation_stats = TruncationStats(longest_complete=5000)
    proven = await judged.checker.verify(DAY)
    assert judged.verdicts[0] is Verdict.truncated
    assert sorted_table(proven.rows).equals(sort_rows(vendor.rows(DAY)))


async def test_an_answer_that_ends_sooner_than_history_knows_is_asked_for_its_tail():
    vendor = ScriptedVendor(flat(10, 48))
    judged = checker_for(vendor)
    await judged.checker.verify(DAY)
    vendor.cap = 233
    proven = await judged.checker.verify(hours(24, 48))
    assert vendor.asked[1:3] == [hours(24, 48), hours(47, 48)]
    assert judged.verdicts[1] is Verdict.truncated
    assert sorted_table(proven.rows).equals(sort_rows(vendor.rows(hours(24, 48))))


async def test_a_short_tail_that_is_the_truth_costs_one_query():
    vendor = ScriptedVendor(flat(10, 24) | flat(10, 46) | {46: 10, 47: 2})
    judged = checker_for(vendor)
    await judged.checker.verify(DAY)
    await judged.checker.verify(hours(24, 48))
    assert (judged.verdicts, len(vendor.asked)) == ([Verdict.complete, Verdict.complete], 3)


async def test_a_tail_that_is_one_of_the_parts_is_not_asked_for_twice():
    vendor = ScriptedVendor(dict.fromkeys(range(12), 10) | {12: 10}, cap=129)
    report = declared(time_zone="UTC", group_by=["queueId"], metrics=["offered"], expected_groups=None)
    judged = checker_for(vendor, report, min_truncation_rows=121)
    judged.checker.density.learn({bucket: vendor.groups.get(n, 0) for n, bucket in enumerate(HOURS)})
    proven = await judged.checker.verify(DAY)
    assert vendor.asked == [DAY, hours(12, 24), hours(0, 12)]
    assert sum(chunk.calls for chunk in judged.said) == 9
    assert sorted_table(proven.rows).equals(sort_rows(vendor.rows(DAY)))


async def test_where_nothing_is_known_a_long_answer_is_asked_for_its_tail_all_the_same():
    report = declared(time_zone="UTC", group_by=["queueId"], metrics=["offered"], expected_groups=None)
    vendor = ScriptedVendor(flat(100), cap=1500)
    judged = checker_for(vendor, report)
    proven = await judged.checker.verify(DAY)
    assert sorted_table(proven.rows).equals(sort_rows(vendor.rows(DAY)))
    whole = checker_for(ScriptedVendor(flat(100)), report)
    await whole.checker.verify(DAY)
    assert (whole.verdicts, whole.checker.truncation_stats.longest_complete) == ([Verdict.complete], 2400)


async def test_figures_restated_between_whole_and_parts_are_no_limit_and_the_newer_ones_count():
    vendor = ScriptedVendor(flat(3))
    judged = checker_for(vendor)
    original = vendor.ask

    async def ask(interval: Interval):
        answer = await original(interval)
        if interval != DAY:
            return answer
        old = answer.rows.to_table().to_pydict()
        old["offered"][5] += 1
        return replace(answer, rows=Rows.from_table(pa.table(old, schema=answer.rows.schema)))

    judged.checker.fetch = ask
    proven = await judged.checker.verify(DAY)
    assert judged.verdicts[0] is Verdict.restated
    assert judged.checker.truncation_stats.shortest_truncated is None
    assert sorted_table(proven.rows).equals(sort_rows(vendor.rows(DAY)))
