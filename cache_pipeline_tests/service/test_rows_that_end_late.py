"""Rows that were still open when their bucket became final, and whose end only the answer to a later interval tells."""

from datetime import datetime, timedelta
from itertools import count
from typing import Any

from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.report import Report
from cache_pipeline_tests.query.declared import declared, with_changes
from cache_pipeline_tests.world import OpenWorld, World

MONDAY = Interval.parse("2026-01-05T00:00:00Z/2026-01-06T00:00:00Z")
DAY = timedelta(days=1)
TUESDAY = Interval(MONDAY.end, MONDAY.end + timedelta(hours=12))
REPORT = declared(
    platform="genesys",
    query_type="conversations",
    rows="conversations",
    time_zone="UTC",
    group_by=[],
    metrics=["nOffered", "tHandle"],
    volume_metric=None,
    expected_groups=None,
    open_row_timeout="PT1M",
    tiers=["history"],
)


PRESENCE = declared(
    name="presence",
    platform="genesys",
    query_type="users",
    rows="presence",
    time_zone="UTC",
    group_by=[],
    metrics=["tSystemPresence"],
    volume_metric=None,
    expected_groups=None,
    tiers=["history"],
)


def _stored(world: World, interval: Interval, report: Report = REPORT) -> list[dict[str, Any]]:
    service = world.service
    rows = service.history.rows(service.series(report), IntervalSet([interval]), service.columns(report))
    return rows.to_table().to_pylist()


async def _vendor_entries(world: World, family: str, name: str, interval: Interval) -> list[dict[str, Any]]:
    """Return the details that the vendor tells now."""
    login = await world.admin.post(
        "/oauth/token", data={"grant_type": "client_credentials"}, auth=("demo-client", "demo-secret")
    )
    headers = {"Authorization": f"Bearer {login.json()['access_token']}"}
    entries: list[dict[str, Any]] = []
    for number in count(1):
        body = {"interval": str(interval), "paging": {"pageSize": 100, "pageNumber": number}}
        page = await world.admin.post(f"/api/v2/analytics/{family}/details/query", json=body, headers=headers)
        entries += page.json().get(name, [])
        if len(entries) >= page.json()["totalHits"]:
            break
    return entries


def _instant(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


async def test_thread_of_a_week_gets_its_end_from_the_day_on_which_it_ends(open_world: OpenWorld):
    report = with_changes(REPORT, open_row_timeout=timedelta(days=2))
    async with open_world(report, conversations_per_working_day=300, thread_share=0.2) as world:
        series, history = world.service.series(report), world.service.history
        days = [Interval(MONDAY.start + n * DAY, MONDAY.end + n * DAY) for n in range(9)]
        # Each day is fetched once when it is over, and once more when its open rows are too old to wait for.
        for number, day in enumerate(days):
            world.clock.at = day.end + timedelta(hours=1)
            for due in (day, *days[max(0, number - 3) : number]):
                await world.fetch_and_store(due, report)
            if number == 4:
                finals = history.coverage(series).final
                threads = [
                    row
                    for row in _stored(world, MONDAY, report)
                    if row["conversation_end"] is None
                    and finals.covers(Interval(row["interval_start"], row["interval_end"]))
                ]
                assert threads, "nothing waits any longer for their ends"
        assert not history.coverage(series).final.covers(MONDAY), "the later days told their ends"
        await world.fetch_and_store(MONDAY, report)
        assert history.coverage(series).final.covers(MONDAY)
        stored = {row["conversation_id"]: row for row in _stored(world, MONDAY, report)}
        for row in threads:
            ended = stored[row["conversation_id"]]
            assert ended["conversation_end"] - ended["conversation_start"] > timedelta(days=2)
            assert ended["t_handle"] > 2 * 86_400_000
        told = await _vendor_entries(world, "conversations", "conversations", MONDAY)
        assert {key: row["conversation_end"] for key, row in stored.items()} == {
            entry["conversationId"]: _instant(entry.get("conversationEnd"))
            for entry in told
            if entry["conversationStart"] >= str(MONDAY.start.date())
        }


async def test_weekend_off_duty_gets_its_end_on_monday(open_world: OpenWorld):
    friday, monday = (Interval.parse(f"2026-01-{day}T00:00:00Z/P1D") for day in ("09", "12"))
    async with open_world(PRESENCE) as world:
        series, history = world.service.series(PRESENCE), world.service.history
        # After two days nothing waits for the end any more.
        world.clock.at = monday.start - timedelta(hours=1)
        await world.fetch_and_store(friday, PRESENCE)
        assert history.coverage(series).final.covers(friday)
        off_duty = [row for row in _stored(world, friday, PRESENCE) if row["end_time"] is None]
        assert len(off_duty) == 20
        assert all((row["system_presence"], row["t_system_presence"]) == ("OFFLINE", None) for row in off_duty)

        world.clock.at = monday.end + timedelta(hours=1)
        await world.fetch_and_store(monday, PRESENCE)
        assert not history.coverage(series).final.covers(friday)
        await world.fetch_and_store(friday, PRESENCE)
        assert history.coverage(series).final.covers(friday)
        stored = {(row["user_id"], row["start_time"]): row for row in _stored(world, friday, PRESENCE)}
        for row in off_duty:
            assert stored[row["user_id"], row["start_time"]]["t_system_presence"] > 48 * 3_600_000
        told = await _vendor_entries(world, "users", "userDetails", friday)
        assert {key: row["end_time"] for key, row in stored.items()} == {
            (user["userId"], stretch["startTime"]): _instant(stretch.get("endTime"))
            for user in told
            for stretch in user["primaryPresence"]
            if stretch["startTime"] >= str(friday.start.date())
        }


async def test_row_gets_the_end_that_a_later_answer_tells(open_world: OpenWorld):
    # Midnight UTC is a busy hour there, and e-mails wait for hours.
    async with open_world(
        REPORT, organisation_zone="America/New_York", conversations_per_working_day=2000, thread_share=0
    ) as world:
        series = world.service.series(REPORT)
        world.clock.at = MONDAY.end + timedelta(minutes=10)
        await world.fetch_and_store(MONDAY, REPORT)
        before = sorted(_stored(world, MONDAY), key=_by_id)
        final_at_first = world.service.history.coverage(series).final
        open_rows = [row for row in before if row["conversation_end"] is None]
        reopened = [
            row for row in open_rows if Interval(row["interval_start"], row["interval_end"]) in _hours(final_at_first)
        ]
        assert reopened, "some buckets are final although rows of theirs have no end"

        world.clock.at = TUESDAY.end + timedelta(hours=1)
        await world.fetch_and_store(TUESDAY, REPORT)
        coverage = world.service.history.coverage(series)
        assert (
            IntervalSet(Interval(row["interval_start"], row["interval_end"]) for row in reopened) & coverage.final
            == IntervalSet()
        )

        world.clock.move(hours=24)
        await world.fetch_and_store(MONDAY, REPORT)
        after = sorted(_stored(world, MONDAY), key=_by_id)
        assert not [row for row in after if row["conversation_end"] is None]
        assert [row["conversation_id"] for row in after] == [row["conversation_id"] for row in before]
        assert sum(row["t_handle"] for row in after) > sum(row["t_handle"] for row in before)
        assert IntervalSet([MONDAY]) - world.service.history.coverage(series).final == IntervalSet()

        # What has its end is left alone.
        submitted = await world.submits()
        await world.fetch_and_store(MONDAY, REPORT)
        assert await world.submits() == submitted


def _by_id(row: dict[str, Any]) -> str:
    return row["conversation_id"]


def _hours(intervals: IntervalSet) -> set[Interval]:
    hour = timedelta(hours=1)
    return {
        Interval(part.start + number * hour, part.start + (number + 1) * hour)
        for part in intervals
        for number in range(int((part.end - part.start) / hour))
    }
