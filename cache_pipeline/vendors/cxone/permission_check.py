"""Checks that a tenant's access key may use Data Extraction."""

from __future__ import annotations

from cache_pipeline.check_result import CheckResult, CheckStatus
from cache_pipeline.errors import LoginRefused, SchemaMismatch, UpstreamError, UpstreamRefused
from cache_pipeline.query.lane import Lane
from cache_pipeline.vendors.cxone.account import CxoneAccount
from cache_pipeline.vendors.cxone.adapter import CxoneAdapter
from cache_pipeline.vendors.spec import DoctorContext

_FORBIDDEN = 403


async def check_permissions(context: DoctorContext[CxoneAccount]) -> list[CheckResult]:
    """List the tenant's jobs: the one call that it has in 30 s."""
    return [await _check_extraction(context)]


async def _check_extraction(context: DoctorContext[CxoneAccount]) -> CheckResult:
    subject = f"extraction by {context.account.clients[0].client_id} ({context.account_id})"
    retry = "run doctor again in half a minute, while no extraction runs"
    if context.is_quota_used:
        return CheckResult(
            subject, CheckStatus.warning, "not checked: the tenant's one call in 30 s was just made", retry
        )
    try:
        jobs = await CxoneAdapter(context.client).probe(Lane.interactive)
    except LoginRefused:
        return CheckResult(subject, CheckStatus.warning, "not checked: the login was refused", "fix the login first")
    except UpstreamRefused as error:
        # The vendor also answers 403 if another call of the tenant is running.
        status = CheckStatus.warning if error.status == _FORBIDDEN else CheckStatus.failed
        remedy = f"{retry}; if it fails again, give the access key's user the permission Extract Interaction Metadata"
        return CheckResult(subject, status, str(error), remedy)
    except (UpstreamError, SchemaMismatch) as error:
        return CheckResult(subject, CheckStatus.warning, str(error).partition("; ")[0], "try again")
    return CheckResult(
        subject,
        CheckStatus.ok,
        f"{jobs} jobs listed; not checked, because it would cost a job: the permission to extract, and the extract's columns",
    )
