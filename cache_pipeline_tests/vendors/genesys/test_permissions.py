"""What a report needs of an OAuth client's role is known beforehand, and named where it is missing."""

import pickle

import httpx
import pytest
import redis.asyncio

from cache_pipeline.errors import UpstreamRefused
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.lane import Lane
from cache_pipeline.vendors.genesys.adapter import GenesysAdapter
from cache_pipeline.vendors.genesys.permissions import PermissionMissing, permissions_needed
from cache_pipeline_tests.vendors.genesys.test_details import rows_report
from cache_pipeline_tests.vendors.workbench import DAY, INSTANT, SECRETS, asked, genesys_report, said, simulated

AGGREGATE = "analytics:conversationAggregate:view"
DETAIL = "analytics:conversationDetail:view"


@pytest.mark.parametrize(
    ("report", "needed"),
    [
        (genesys_report(), (AGGREGATE,)),
        (genesys_report(query_type="flows", metrics=["nFlow"]), ("analytics:flowAggregate:view",)),
        (rows_report("segments"), (DETAIL, "analytics:agentConversationDetail:view")),
        (rows_report("routing"), ("analytics:userDetail:view",)),
    ],
)
def test_each_report_needs_what_the_vendor_documents(report, needed: tuple[str, ...]) -> None:
    assert permissions_needed(report) == needed


@pytest.mark.parametrize("report", [genesys_report(), genesys_report(delivery="sync"), rows_report("conversations")])
async def test_a_missing_permission_is_named_by_submit_and_by_probe(shared_redis: redis.asyncio.Redis, report) -> None:
    nothing = INSTANT.model_copy(update={"client_permissions": dict.fromkeys(SECRETS, frozenset({"other:thing:view"}))})
    minute = Interval.parse("2024-06-10T00:00:00Z/2024-06-10T00:01:00Z")
    async with simulated(shared_redis, nothing) as vendor:
        for asking in (
            vendor.genesys.submit(report, DAY, Lane.scheduled),
            vendor.genesys.probe(report, minute, Lane.scheduled),
        ):
            with pytest.raises(PermissionMissing, match="give the OAuth client a role with") as missing:
                await asking
            assert missing.value.permissions == permissions_needed(report)
            assert missing.value.correlation_id
            again = pickle.loads(pickle.dumps(missing.value))
            assert (str(again), again.permissions) == (str(missing.value), missing.value.permissions)


@pytest.mark.parametrize("report", [genesys_report(), rows_report("conversations"), rows_report("presence")])
async def test_a_probe_of_what_is_allowed_says_nothing(shared_redis: redis.asyncio.Redis, report) -> None:
    allowed = frozenset(permissions_needed(report))
    settings = INSTANT.model_copy(update={"client_permissions": dict.fromkeys(SECRETS, allowed)})
    minute = Interval.parse("2024-06-10T00:00:00Z/2024-06-10T00:01:00Z")
    async with simulated(shared_redis, settings) as vendor:
        await vendor.genesys.probe(report, minute, Lane.interactive)


async def test_another_403_stays_an_ordinary_refusal() -> None:
    body = {"message": "no", "code": "not.authorized", "status": 403, "contextId": "c-1"}
    async with said(lambda _: httpx.Response(403, json=body)) as client:
        with pytest.raises(UpstreamRefused, match="correlation id c-1") as refused:
            await GenesysAdapter(client).submit(genesys_report(), DAY, Lane.interactive)
    assert not isinstance(refused.value, PermissionMissing)


async def test_divisions_that_a_role_does_not_reach_are_left_out_without_a_word(
    shared_redis: redis.asyncio.Redis,
) -> None:
    report = genesys_report(delivery="sync", group_by=["queueId"], granularity="P1D")
    limited = INSTANT.model_copy(update={"client_divisions": dict.fromkeys(SECRETS, frozenset({0}))})
    async with simulated(shared_redis, limited) as vendor:
        part = await asked(vendor.genesys, report)
    async with simulated(shared_redis) as vendor:
        whole = await asked(vendor.genesys, report)
    assert 0 < part.num_rows < whole.num_rows


async def test_without_aggregate_jobs_the_answer_comes_in_one_request(
    shared_redis: redis.asyncio.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    without = INSTANT.model_copy(update={"aggregate_jobs": False})
    async with simulated(shared_redis, without) as vendor:
        fallen_back = await asked(vendor.genesys, genesys_report())
    async with simulated(shared_redis) as vendor:
        by_job = await asked(vendor.genesys, genesys_report())
    assert fallen_back.num_rows == by_job.num_rows > 100
    assert "no aggregate jobs of conversations here" in caplog.text
