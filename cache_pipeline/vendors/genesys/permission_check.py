"""Checks that an organisation's OAuth clients have the permissions that its reports need."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from datetime import timedelta

from cache_pipeline.aio import gather_or_cancel
from cache_pipeline.check_result import CheckResult, CheckStatus
from cache_pipeline.errors import LoginRefused, SchemaMismatch, UpstreamError, UpstreamRefused
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.lane import Lane
from cache_pipeline.query.live_report import LiveReport
from cache_pipeline.query.report import Report
from cache_pipeline.vendors.genesys.account import GenesysAccount
from cache_pipeline.vendors.genesys.adapter import GenesysAdapter
from cache_pipeline.vendors.genesys.live_kinds import probe_observations
from cache_pipeline.vendors.genesys.permissions import OBSERVATION_PERMISSIONS, PermissionMissing, permissions_needed
from cache_pipeline.vendors.spec import DoctorContext

#: The interval of the query that shows whether a client may query at all.
_PROBE_LENGTH = timedelta(minutes=30)
_PROBE_AGE = timedelta(days=2)


async def check_permissions(context: DoctorContext[GenesysAccount]) -> list[CheckResult]:
    """Send one request for each kind of query and client."""
    kinds: dict[tuple[str, ...], list[Report]] = {}
    for report in context.reports:
        kinds.setdefault(permissions_needed(report), []).append(report)
    live: dict[tuple[str, ...], list[LiveReport]] = {}
    for report in context.live_reports:
        live.setdefault(OBSERVATION_PERMISSIONS[report.query_type], []).append(report)
    # On the hour, so that the interval is valid for every granularity.
    end = (context.now - _PROBE_AGE).replace(minute=0, second=0, microsecond=0)
    interval = Interval(end - _PROBE_LENGTH, end)
    adapter = GenesysAdapter(context.client)
    checks: list[Awaitable[CheckResult | None]] = []
    for each in context.account.clients:
        checks += [
            _check_permission(
                adapter.probe(affected[0], interval, Lane.interactive, each.client_id),
                context.account_id,
                each.client_id,
                needed,
                affected,
            )
            for needed, affected in kinds.items()
        ]
        checks += [
            _check_permission(
                probe_observations(context.client, affected[0], each.client_id),
                context.account_id,
                each.client_id,
                needed,
                affected,
            )
            for needed, affected in live.items()
        ]
    return [result for result in await gather_or_cancel(checks) if result is not None]


async def _check_permission(
    probe: Awaitable[None],
    account_id: str,
    client_id: str,
    needed: tuple[str, ...],
    affected: Sequence[Report | LiveReport],
) -> CheckResult | None:
    subject = f"permissions of {client_id} ({account_id})"
    named = ", ".join(report.name for report in affected[:3]) + (
        f" and {len(affected) - 3} more" if len(affected) > 3 else ""
    )
    permission = " or ".join(needed)
    try:
        await probe
    except PermissionMissing as error:
        missing = " or ".join(error.permissions) or permission
        remedy = f"give the OAuth client a role with {missing}, in every division whose figures you need"
        return CheckResult(subject, CheckStatus.failed, f"{missing} is missing: {named}", remedy)
    except LoginRefused:
        # The check of the logins reports this.
        return None
    except UpstreamRefused as error:
        return CheckResult(
            subject, CheckStatus.failed, f"{named}: {error}", "correct the report's declaration, or ask the vendor"
        )
    except (UpstreamError, SchemaMismatch) as error:
        return CheckResult(subject, CheckStatus.warning, f"{named}: {str(error).partition('; ')[0]}", "try again")
    return CheckResult(subject, CheckStatus.ok, f"{permission}: {named}")
