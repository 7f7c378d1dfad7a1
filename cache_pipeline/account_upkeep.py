"""Read what a deployment needs of each vendor account beside its figures: limits and retention, and names of ids."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from cache_pipeline.bootstrap.accounts import connect_vendor
from cache_pipeline.bootstrap.clock import utc_now
from cache_pipeline.bootstrap.reports import report_columns
from cache_pipeline.bootstrap.stores import open_stored_names
from cache_pipeline.errors import SchemaMismatch, UpstreamError
from cache_pipeline.query.report import Report
from cache_pipeline.settings import Settings, account_ids
from cache_pipeline.vendors.spec import AccountFacts, Lookup

# As in bootstrap/, what takes long to import is imported by the function that needs it.
if TYPE_CHECKING:
    from cache_pipeline.service.names import LookupResult

logger = logging.getLogger(__name__)

#: A vendor that does not answer in time is not asked for its limits.
_FACTS_TIMEOUT_SECONDS = 10.0


async def refresh_account_facts(settings: Settings) -> dict[str, AccountFacts]:
    """Read the limits and the retention of each account from vendors that report them, once a day, and keep to them.

    A vendor that cannot be read is logged: its documented limits apply then, and those that a refusal names.

    Returns:
        What was read now, by account.

    Raises:
        SettingsError: No Redis URL is set, or an account is wrong.
    """
    from cache_pipeline.redis_connection import open_redis
    from cache_pipeline.redis_errors import REDIS_ERRORS
    from cache_pipeline.upstream.client import create_upstream_quota
    from cache_pipeline.upstream.config import RetryPolicy
    from cache_pipeline.upstream.fact_store import FactStore

    retries = RetryPolicy(max_attempts=1, rate_limit_timeout_seconds=_FACTS_TIMEOUT_SECONDS)
    found: dict[str, AccountFacts] = {}
    for account_id in account_ids(settings):
        connection = connect_vendor(settings, account_id)
        if connection.vendor.read_facts is None:
            continue
        try:
            async with open_redis(settings.required_redis_url()) as redis, asyncio.timeout(_FACTS_TIMEOUT_SECONDS):
                store = FactStore(redis, connection.config.keys)
                if not await store.claim_reading():
                    continue
                async with connection.open_client(redis, retries) as client:
                    facts = await connection.vendor.read_facts(client)
                await create_upstream_quota(connection.config, redis).learn(facts.limits)
                await store.store_retention(facts.retention_days)
        except (UpstreamError, SchemaMismatch, TimeoutError, *REDIS_ERRORS) as error:
            logger.info("%s: its limits could not be read (%s); the documented ones apply", account_id, error)
            continue
        found[account_id] = facts
    return found


async def refresh_names(
    settings: Settings, account_id: str, lookups: Sequence[Lookup], now: datetime
) -> dict[str, LookupResult]:
    """Read some of an account's listings of names, and store what has changed.

    Raises:
        SettingsError: A URL is missing, or the account is wrong.
        UpstreamError: The vendor could not be reached, or refused for another reason than a missing permission.
    """
    from cache_pipeline.redis_connection import open_redis
    from cache_pipeline.service.names import refresh_lookup
    from cache_pipeline.storage.ports.names import NameScope

    scope = NameScope(settings.tenant, account_id)
    connection = connect_vendor(settings, account_id)
    async with open_redis(settings.required_redis_url()) as redis, connection.open_client(redis) as client:
        with open_stored_names(settings) as names:
            return {
                lookup.name: await refresh_lookup(client, connection.vendor, lookup, names.store, scope, now)
                for lookup in lookups
            }


async def refresh_needed_names(settings: Settings, reports: Mapping[str, Report]) -> None:
    """Read the listings that reports need and that were not read within a day, each once.

    Raises:
        SettingsError: As ``refresh_names``.
        UpstreamError: As ``refresh_names``.
    """
    from cache_pipeline.service.names import MAX_NAMES_AGE
    from cache_pipeline.storage.ports.names import NameScope

    now = utc_now()
    for account_id, lookups in lookups_by_account(reports).items():
        with open_stored_names(settings) as names:
            state = names.store.state(NameScope(settings.tenant, account_id))
        listed_at = {name: each.listed_at for name, each in state.items()}
        due = [each for each in lookups if (at := listed_at.get(each.name)) is None or now - at >= MAX_NAMES_AGE]
        if due:
            await refresh_names(settings, account_id, due, now)


def lookups_by_account(reports: Mapping[str, Report]) -> dict[str, list[Lookup]]:
    """Return the listings that have names for the columns of reports, by account."""
    from cache_pipeline.service.names import needed_lookups

    found: dict[str, dict[str, Lookup]] = {}
    for report in reports.values():
        for lookup in needed_lookups(report, report_columns(report)):
            found.setdefault(report.account_id, {})[lookup.name] = lookup
    return {account_id: list(lookups.values()) for account_id, lookups in sorted(found.items())}
