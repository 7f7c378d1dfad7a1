"""Follow the vendors' requests to delete a person's data."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING

from cache_pipeline.bootstrap.accounts import connect_vendor
from cache_pipeline.bootstrap.services import forget
from cache_pipeline.query.report import Report
from cache_pipeline.settings import Settings, account_ids

# As in bootstrap/, what takes long to import is imported by the function that needs it.
if TYPE_CHECKING:
    from pathlib import Path

    from cache_pipeline.service.forget import FollowedDeletion


async def follow_deletions(
    settings: Settings,
    reports: Mapping[str, Report],
    *,
    pseudonymise: bool,
    logs: Sequence[Path] = (),
    dagster_tables: Sequence[str] = (),
) -> AsyncIterator[FollowedDeletion]:
    """Forget the people whose data the vendors have deleted on request, each request once.

    A request is remembered once nothing names the person any more, so a run that was killed is continued by the next one.

    Args:
        settings: The settings of the deployment.
        reports: The declared reports.
        pseudonymise: As ``forget``; so are ``logs`` and ``dagster_tables``.
        logs: Files and folders with logs.
        dagster_tables: The names of Dagster's tables.

    Yields:
        What was done for each request that had not been followed before.

    Raises:
        SettingsError: A URL is missing, or an account is wrong.
        CommandError: Another process forgets someone.
        UpstreamError: A vendor refused, or could not be reached; nothing was forgotten for its account.
    """
    from cache_pipeline.query.person import is_identifier
    from cache_pipeline.redis_connection import open_redis
    from cache_pipeline.service.forget import FollowedDeletion
    from cache_pipeline.storage.postgres.forgotten_requests import open_forgotten_requests

    for account_id in account_ids(settings):
        connection = connect_vendor(settings, account_id)
        if connection.vendor.read_deletions is None:
            continue
        async with open_redis(settings.required_redis_url()) as redis, connection.open_client(redis) as client:
            requests = [request async for request in connection.vendor.read_deletions(client)]
        with open_forgotten_requests(settings.required_postgres_url()) as followed:
            known = followed.ids(account_id)
            for request in requests:
                if request.id in known:
                    continue
                receipts = [
                    await forget(
                        settings,
                        reports,
                        identifier,
                        pseudonymise=pseudonymise,
                        logs=logs,
                        dagster_tables=dagster_tables,
                    )
                    for identifier in filter(is_identifier, request.identifiers)
                ]
                done = FollowedDeletion(
                    account_id, request.id, tuple(receipts), len(request.identifiers) - len(receipts)
                )
                if done.is_complete:
                    followed.record(account_id, request.id, [receipt.as_document() for receipt in receipts])
                yield done
