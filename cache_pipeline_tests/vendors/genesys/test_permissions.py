"""Tests of permissions: what each report needs, and errors that name a missing permission."""

import pickle
from datetime import UTC, datetime

import httpx
import pytest
import redis.asyncio

from cache_pipeline.check_result import CheckStatus
from cache_pipeline.errors import UpstreamRefused
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.lane import Lane
from cache_pipeline.settings import ClientCredentials
from cache_pipeline.vendors.genesys.account import GenesysAccount
from cache_pipeline.vendors.genesys.adapter import GenesysAdapter
from cache_pipeline.vendors.genesys.permission_check import check_permissions
from cache_pipeline.vendors.genesys.permissions import PermissionMissing, permissions_needed
from cache_pipeline.vendors.spec import DoctorContext
from cache_pipeline_tests.vendors.genesys.test_details import rows_report
from cache_pipeline_tests.vendors.genesys.test_observations import live_report
from cache_pipeline_tests.vendors.workbench import (
    DAY,
    INSTANT,
    SECRETS,
    fetch_rows,
    genesys_report,
    mock_client,
    simulated_vendor,
)

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
def test_report_needs_the_documented_permissions(report, needed: tuple[str, ...]) -> None:
    assert permissions_needed(report) == needed


@pytest.mark.parametrize("report", [genesys_report(), genesys_report(delivery="sync"), rows_report("conversations")])
async def test_submit_and_probe_name_a_missing_permission(shared_redis: redis.asyncio.Redis, report) -> None:
    unprivileged = INSTANT.model_copy(
        update={"client_permissions": dict.fromkeys(SECRETS, frozenset({"other:thing:view"}))}
    )
    minute = Interval.parse("2024-06-10T00:00:00Z/2024-06-10T00:01:00Z")
    async with simulated_vendor(shared_redis, unprivileged) as vendor:
        for call in (
            vendor.genesys.submit(report, DAY, Lane.scheduled),
            vendor.genesys.probe(report, minute, Lane.scheduled),
        ):
            with pytest.raises(PermissionMissing, match="give the OAuth client a role with") as missing:
                await call
            assert missing.value.permissions == permissions_needed(report)
            assert missing.value.correlation_id
            copy = pickle.loads(pickle.dumps(missing.value))
            assert (str(copy), copy.permissions) == (str(missing.value), missing.value.permissions)


@pytest.mark.parametrize("report", [genesys_report(), rows_report("conversations"), rows_report("presence")])
async def test_probe_with_permission_succeeds(shared_redis: redis.asyncio.Redis, report) -> None:
    allowed = frozenset(permissions_needed(report))
    settings = INSTANT.model_copy(update={"client_permissions": dict.fromkeys(SECRETS, allowed)})
    minute = Interval.parse("2024-06-10T00:00:00Z/2024-06-10T00:01:00Z")
    async with simulated_vendor(shared_redis, settings) as vendor:
        await vendor.genesys.probe(report, minute, Lane.interactive)


async def test_unreadable_listing_is_one_warning() -> None:
    account = GenesysAccount.model_validate(
        {"region": "eu_central_1", "clients": [ClientCredentials(client_id="beta", client_secret=SECRETS["beta"])]}
    )
    async with mock_client(lambda _: httpx.Response(200, text="<html>maintenance</html>")) as client:
        context = DoctorContext(
            "genesys/main", account, client, [genesys_report()], datetime.now(UTC), False, [live_report()]
        )
        figures, live = await check_permissions(context)
    assert (figures.status, live.status) == (CheckStatus.ok, CheckStatus.warning)
    assert "not JSON" in live.detail


async def test_other_403_is_an_ordinary_refusal() -> None:
    body = {"message": "no", "code": "not.authorized", "status": 403, "contextId": "c-1"}
    async with mock_client(lambda _: httpx.Response(403, json=body)) as client:
        with pytest.raises(UpstreamRefused, match="correlation id c-1") as refused:
            await GenesysAdapter(client).submit(genesys_report(), DAY, Lane.interactive)
    assert not isinstance(refused.value, PermissionMissing)


async def test_inaccessible_divisions_are_silently_omitted(
    shared_redis: redis.asyncio.Redis,
) -> None:
    report = genesys_report(delivery="sync", group_by=["queueId"], granularity="P1D")
    limited = INSTANT.model_copy(update={"client_divisions": dict.fromkeys(SECRETS, frozenset({0}))})
    async with simulated_vendor(shared_redis, limited) as vendor:
        some_divisions = await fetch_rows(vendor.genesys, report)
    async with simulated_vendor(shared_redis) as vendor:
        all_divisions = await fetch_rows(vendor.genesys, report)
    assert 0 < some_divisions.num_rows < all_divisions.num_rows


async def test_missing_aggregate_jobs_fall_back_to_one_request(
    shared_redis: redis.asyncio.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    without_jobs = INSTANT.model_copy(update={"aggregate_jobs": False})
    async with simulated_vendor(shared_redis, without_jobs) as vendor:
        fallen_back = await fetch_rows(vendor.genesys, genesys_report())
    async with simulated_vendor(shared_redis) as vendor:
        by_job = await fetch_rows(vendor.genesys, genesys_report())
    assert fallen_back.num_rows == by_job.num_rows > 100
    assert "no aggregate jobs for conversations" in caplog.text
