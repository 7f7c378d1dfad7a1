"""Tests of the generated calls, and of their aggregates against a simple count call by call."""

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from cache_pipeline.simulator import SimulatorSettings
from cache_pipeline.simulator.aggregate import FACTS, AggregateQuery, aggregate
from cache_pipeline.simulator.calls import MAX_DURATION_MS, MAX_THREAD_DAYS
from cache_pipeline.simulator.intervals import to_ms
from cache_pipeline.simulator.organisation import MEDIA, create_organisation
from cache_pipeline.simulator.truth import create_truth
from cache_pipeline_tests.simulator.vendor import DAY, Vendor, open_vendor

SETTINGS = SimulatorSettings()
MONDAY = date(2024, 6, 10)
WORKING_WEEK = [MONDAY + timedelta(days=number) for number in range(5)]


def test_day_does_not_depend_on_generation_order() -> None:
    forwards, backwards = create_truth(SETTINGS), create_truth(SETTINGS)
    days = [MONDAY + timedelta(days=number) for number in range(6)]
    ascending = {day: forwards.day(day) for day in days}
    descending = {day: backwards.day(day) for day in reversed(days)}
    for day in days:
        assert vars(ascending[day]).keys() == vars(descending[day]).keys()
        for name, column in vars(ascending[day]).items():
            assert np.array_equal(column, getattr(descending[day], name)), name


def test_evicted_day_is_regenerated_equal() -> None:
    truth = create_truth(SimulatorSettings(cached_days=1))
    first = truth.day(MONDAY)
    truth.day(MONDAY + timedelta(days=1))
    regenerated = truth.day(MONDAY)
    assert regenerated is not first
    assert np.array_equal(first.offered_ms, regenerated.offered_ms)


def test_equal_seeds_give_equal_answers() -> None:
    days = ["2024-06-10T00:00:00Z/2024-06-11T00:00:00Z", "2024-06-03T00:00:00Z/2024-06-04T00:00:00Z"]
    with open_vendor(SETTINGS) as one, open_vendor(SETTINGS) as two, open_vendor(SimulatorSettings(seed=7)) as other:
        ascending = [one.rows(interval=day) for day in days]
        descending = [two.rows(interval=day) for day in reversed(days)]
        assert ascending == descending[::-1]
        assert other.rows(interval=days[0]) != ascending[0]


def test_volume_follows_daily_and_weekly_patterns() -> None:
    truth = create_truth(SETTINGS)
    volume = {
        weekday: np.mean([len(truth.day(MONDAY + timedelta(days=weekday, weeks=week)).queue) for week in range(8)])
        for weekday in range(7)
    }
    assert 5600 < np.mean([volume[weekday] for weekday in range(5)]) < 6400
    assert max(volume, key=lambda weekday: volume[weekday]) == 0
    assert min(volume, key=lambda weekday: volume[weekday]) == 6
    assert volume[6] < 0.25 * volume[2]
    hours: Counter[int] = Counter()
    for day in WORKING_WEEK:
        local = [datetime.fromtimestamp(ms / 1000, ZoneInfo("Europe/Berlin")) for ms in truth.day(day).offered_ms]
        assert {instant.date() for instant in local} == {day}
        hours.update(instant.hour for instant in local)
    assert 0 < max(hours[hour] / 5 for hour in range(5)) < 10
    assert hours[12] < 0.8 * min(hours[10], hours[14])
    assert hours[10] > 5 * hours[20]


def test_queues_differ_and_all_agents_work() -> None:
    truth = create_truth(SETTINGS)
    calls = [truth.day(day) for day in WORKING_WEEK]
    by_queue = np.bincount(np.concatenate([day.queue for day in calls]), minlength=8)
    assert list(by_queue) == sorted(by_queue, reverse=True)
    assert by_queue[0] > 6 * by_queue[7] > 0
    agents = np.concatenate([day.agent[~day.abandoned] for day in calls])
    assert set(agents) == set(range(30))
    assert all((day.agent == 30)[day.abandoned].all() for day in calls)


def test_conversations_have_stable_ids_and_bounded_durations() -> None:
    calls = create_truth(SETTINGS).day(MONDAY)
    ids = [calls.conversation_id(row) for row in range(len(calls.queue))]
    assert len(set(ids)) == len(ids)
    regenerated = create_truth(SETTINGS).day(MONDAY)
    assert ids == [regenerated.conversation_id(row) for row in range(len(ids))]
    spans = calls.wait_ms + calls.talk_ms + calls.held_ms + calls.acw_ms
    assert (spans - calls.thread_ms).max() <= MAX_DURATION_MS
    assert 86_400_000 <= spans.max() <= MAX_DURATION_MS + MAX_THREAD_DAYS * 86_400_000
    assert set(calls.media[calls.thread_ms > 0]) == {MEDIA.index("email")}
    assert (calls.met == (~calls.abandoned & (calls.wait_ms <= 20_000))).all()
    assert not calls.talk_ms[calls.abandoned].any()


@pytest.mark.parametrize(
    "settings", [SETTINGS, SimulatorSettings(queues=1, agents=1), SimulatorSettings(queues=40, agents=3)]
)
def test_organisations_of_any_size_work(settings: SimulatorSettings) -> None:
    calls = create_truth(settings).day(MONDAY)
    assert set(calls.agent[~calls.abandoned]) <= set(range(settings.agents))
    assert calls.queue.max() < settings.queues


@pytest.mark.parametrize("start", [datetime(2024, 6, 10, 5, 30, tzinfo=UTC), datetime(2024, 6, 10, 22, tzinfo=UTC)])
def test_aggregates_equal_a_count_call_by_call(start: datetime) -> None:
    """Compare from the morning, and from local midnight, when calls of the previous day are still open."""
    truth, organisation = create_truth(SETTINGS), create_organisation(SETTINGS)
    calls = truth.day((start + timedelta(hours=2)).date())
    row = int(np.searchsorted(calls.offered_ms, to_ms(start + timedelta(hours=2))))
    exactly = int(calls.offered_ms[row]), int(calls.offered_ms[row + 1] + calls.wait_ms[row + 1])
    edges = sorted({to_ms(start), to_ms(start + timedelta(hours=1)), *exactly})
    query = AggregateQuery(np.array(edges), ("queueId", "userId"), tuple(FACTS))
    result = aggregate(truth, organisation, query, None)
    figures_by_key = {
        (name, *result.bucket(cell), *sorted(result.group(cell, organisation).items())): figures
        for name, column in result.columns.items()
        for cell, *figures in zip(*(values.tolist() for values in vars(column).values()), strict=True)
    }
    assert figures_by_key == _count_call_by_call(edges)


def _count_call_by_call(edges: list[int]) -> dict[tuple, list[int]]:
    organisation, truth = create_organisation(SETTINGS), create_truth(SETTINGS)
    figures: dict[tuple, list[int]] = {}
    for day in (date(2024, 6, number) for number in range(1, 13)):
        calls = truth.day(day)
        for row in range(len(calls.queue)):
            offered, wait = int(calls.offered_ms[row]), int(calls.wait_ms[row])
            talk, held, acw = (int(column[row]) for column in (calls.talk_ms, calls.held_ms, calls.acw_ms))
            queue = ("queueId", organisation.values["queueId"][calls.queue[row]])
            events = [("offered", offered, 0, False), ("resolved", offered + wait, 0, not calls.abandoned[row])]
            if calls.media[row] == 0:
                events.append(("flow", offered, int(calls.flow_ms[row]), False))
            if calls.abandoned[row]:
                events.append(("abandoned", offered + wait, wait, False))
            else:
                target = "in_target" if wait <= 20_000 else "over_target"
                end = offered + wait + talk + held + acw
                events += [("answered", offered + wait, wait, True), (target, offered + wait, 0, True)]
                events += [("talk", end, talk, True), ("after_call", end, acw, True)]
                events += [("handle", end, talk + held + acw, True), ("single", end, 1, True)]
                events += [("held", end, held, True)] if held else []
                events += [("transferred", end, 0, True)] if calls.transferred[row] else []
            for name, instant, amount, by_agent in events:
                if edges[0] <= instant < edges[-1]:
                    bucket = max(number for number, edge in enumerate(edges) if edge <= instant)
                    agent = [("userId", organisation.values["userId"][calls.agent[row]])] if by_agent else []
                    key = (name, edges[bucket], edges[bucket + 1], queue, *agent)
                    count, total, low, high = figures.get(key, [0, 0, amount, amount])
                    figures[key] = [count + 1, total + amount, min(low, amount), max(high, amount)]
    return figures


def test_truth_endpoint_includes_the_future(shared_vendor: Vendor) -> None:
    tomorrow = "2024-06-13T00:00:00Z/2024-06-14T00:00:00Z"
    assert sum(row["offered"] for row in shared_vendor.truth(tomorrow)) > 3000
    assert shared_vendor.aggregate(interval=tomorrow) == []
    assert shared_vendor.http.get("/simulator/truth").status_code == 400
    assert shared_vendor.http.get("/simulator/truth", params={"interval": tomorrow, "groupBy": "x"}).status_code == 400


def test_truth_of_another_fact_matches_the_vendors_answer(shared_vendor: Vendor) -> None:
    (answered,) = shared_vendor.aggregate(groupBy=["mediaType"], filter=None, metrics=["tTalk"], granularity="P1D")[:1]
    rows = shared_vendor.truth(DAY, fact="talk", groupBy="mediaType")
    (row,) = [row for row in rows if row["mediaType"] == answered["group"]["mediaType"]]
    stats = answered["data"][0]["metrics"][0]["stats"]
    assert (row["talk"], row["talkMs"]) == (stats["count"], stats["sum"])
    refused = shared_vendor.http.get("/simulator/truth", params={"interval": DAY, "fact": "x"})
    assert (refused.status_code, "fact" in refused.json()["message"]) == (400, True)
