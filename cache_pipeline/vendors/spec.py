"""What a vendor's package exports: one `VendorSpec`, from which everything else knows the vendor."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar

from pydantic import ConfigDict, model_validator

from cache_pipeline.check_result import CheckResult
from cache_pipeline.query.live_report import LiveReport
from cache_pipeline.query.measures import Measure
from cache_pipeline.query.names import ListedName
from cache_pipeline.query.payload import QueryPayload
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import Column
from cache_pipeline.settings import VendorAccount
from cache_pipeline.upstream.dialect import COMMON_DIALECT, Dialect, NamedLimit
from cache_pipeline.vendors.base import VendorAdapter
from cache_pipeline.vendors.served import ServedApi

# The upstream client takes long to import, and most of what reads a vendor's rules never opens one.
if TYPE_CHECKING:
    from cache_pipeline.upstream.config import Issuer
    from cache_pipeline.upstream.discovery import DiscoverAddresses
    from cache_pipeline.upstream.http import httpx
    from cache_pipeline.upstream.oauth import LoginRequest


class AddressedAccount(VendorAccount, frozen=True):
    """An account whose API is at the address that the settings name, and its login there or at another.

    Attributes:
        login_url: By default ``/oauth/token`` at the API's address.
    """

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="after")
    def _require_addresses(self) -> Self:
        if self.base_url is None:
            raise ValueError("the account has no address: set base_url")
        return self


AccountT = TypeVar("AccountT", bound=VendorAccount)


@dataclass(frozen=True)
class AccountAddresses:
    """Where an account's API and login are.

    Attributes:
        base_url: The API's address; with an issuer, the issuer's own address until discovery has found the API's.
        login_url: The token endpoint; None if discovery finds it.
        issuer: The service that names the API's address, for vendors with discovery.
    """

    base_url: str
    login_url: str | None
    issuer: Issuer | None = None


def configured_account_addresses(account: VendorAccount) -> AccountAddresses:
    """Return the addresses that an account's settings name."""
    base_url = str(account.base_url)
    return AccountAddresses(base_url, str(account.login_url or base_url.rstrip("/") + "/oauth/token"))


@dataclass(frozen=True)
class DoctorContext(Generic[AccountT]):
    """What a vendor's check of one account may use.

    Attributes:
        account_id: Vendor and name of the account.
        account: The account's settings.
        client: Sends requests through the shared quota like any other.
        reports: The reports that are fetched with the account.
        now: The current time, in UTC.
        is_quota_used: Whether a request would have to wait for the quota.
        live_reports: The live reports of the account.
    """

    account_id: str
    account: AccountT
    client: httpx.AsyncClient
    reports: Sequence[Report]
    now: datetime
    is_quota_used: bool
    live_reports: Sequence[LiveReport] = ()


@dataclass(frozen=True)
class Lookup:
    """A vendor's listing of the names of what some dimensions hold the ids of.

    Attributes:
        name: What it lists, in lower case, such as ``queues``.
        dimensions: The dimensions that hold the ids.
        path: The path of the listing.
        permission: What the OAuth client's role needs; None if every client may read it.
        parameters: Parameters of every request.
    """

    name: str
    dimensions: tuple[str, ...]
    path: str
    permission: str | None = None
    parameters: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class LiveRow:
    """What a vendor says of one group now.

    Attributes:
        values: The value of each column of the live report.
        observed_at: When the vendor was asked, or last known to have no news of the group.
    """

    values: Mapping[str, object]
    observed_at: datetime


@dataclass(frozen=True)
class LiveRequest:
    """What is asked of a vendor for a live report.

    Attributes:
        report: The live report.
        ids: The ids of what is observed, from the kind's listing.
        clock: The current time, in UTC.
    """

    report: LiveReport
    ids: Sequence[str]
    clock: Callable[[], datetime]


class Push(Protocol):
    """A vendor's way to tell of changes by itself."""

    def follow(self, request: LiveRequest) -> AsyncGenerator[Sequence[LiveRow]]:
        """Yield all rows after each change, and from time to time that there was none. It ends when it has to begin again.

        Raises:
            PushLost: The connection is closed or silent, or what it sends is not as documented.
            UpstreamError: The vendor refused, or could not be reached.
        """
        ...


@dataclass(frozen=True)
class LiveReading:
    """What a vendor answered of the present.

    Attributes:
        rows: The rows of the live report.
        answer: The answer in the vendor's own form; that of several requests as if it were one.
    """

    rows: Sequence[LiveRow]
    answer: Mapping[str, object]


#: Asks for all that a live report shows now.
ReadLive = Callable[["httpx.AsyncClient", LiveRequest], Awaitable[LiveReading]]


@dataclass(frozen=True)
class LiveBoard:
    """Which columns the live page shows; a report need not have all of them.

    Attributes:
        waiting: Conversations that wait.
        waiting_since: Since when the first of them has waited.
        interacting: Conversations with an agent.
        states: Agents by state: the column of each state, as the page calls it.
        idle: The state of agents who are free.
    """

    waiting: str
    waiting_since: str
    interacting: str
    states: Mapping[str, str]
    idle: str


@dataclass(frozen=True)
class LiveKind:
    """One kind of live report: what a vendor answers of the present, without a job and without history.

    Attributes:
        lookup: The listing with the ids of what is observed.
        dimensions: The dimensions that a report may be grouped by; it needs the first.
        metrics: The metrics, each with its description.
        columns: Returns the columns of a report's answers, dimensions first.
        read: Asks for all that a report shows now.
        ids_per_request: How many ids one request to the vendor may have.
        board: What the live page shows; None if it does not show this kind.
        open_push: Returns what follows the vendor's own news of changes; None if it has none.
    """

    lookup: str
    dimensions: tuple[str, ...]
    metrics: Mapping[str, str]
    columns: Callable[[LiveReport], tuple[Column, ...]]
    read: ReadLive
    ids_per_request: int
    board: LiveBoard | None = None
    open_push: Callable[[httpx.AsyncClient], Push] | None = None


#: Yields the names of one page of a listing after another, by id.
ReadLookup = Callable[["httpx.AsyncClient", Lookup], AsyncIterator[Mapping[str, ListedName]]]


async def _check_nothing(_context: DoctorContext[Any]) -> list[CheckResult]:
    return []


@dataclass(frozen=True)
class AccountFacts:
    """Facts that a vendor reports about an account.

    Attributes:
        limits: The limits in force, beside the documented ones.
        retention_days: How long figures are kept; None if the vendor does not say.
    """

    limits: tuple[NamedLimit, ...] = ()
    retention_days: int | None = None


@dataclass(frozen=True)
class DeletionRequest:
    """A request to delete a person's data, which the vendor has fulfilled.

    Attributes:
        id: The vendor's id of the request.
        identifiers: The ids and addresses of the person.
    """

    id: str
    identifiers: tuple[str, ...]


@dataclass(frozen=True)
class RowRules:
    """What a declaration of single rows of one kind has to keep to.

    Attributes:
        key: The dimensions that identify one row, sorted. They take the place of ``group_by``.
        edge_dimensions: The dimensions that published counts of such rows may be grouped by: those that reveal nothing about
            a person.
    """

    key: tuple[str, ...]
    edge_dimensions: tuple[str, ...]


@dataclass(frozen=True)
class VendorSpec(Generic[AccountT]):
    """One vendor.

    Attributes:
        name: The name that reports and settings use.
        account: The model of an account's settings.
        adapter: The class of its adapter, with the vendor's limits, columns and rules for declarations.
        create_adapter: Returns the adapter of an account, whose requests a client sends.
        personal_dimensions: The dimensions that identify a single person. Figures grouped by them are never published.
        rows: The kinds of single rows that a report may ask for, by name; empty if the vendor has only figures.
        addresses: Returns the addresses of an account's API and login.
        login_request: Builds the request that logs a client in; None for OAuth client credentials.
        login_remedy: What to check if a login is refused.
        dialect: Its words for errors, limits and jobs.
        discover: Finds the addresses of accounts that name an issuer.
        check_permissions: Checks what an account's clients may do, for `cache-pipeline doctor`.
        read_facts: Asks the vendor for the limits and the retention of an account; None if it does not tell them.
        read_deletions: Yields the requests to delete a person's data that the vendor has fulfilled; None if it does not list them.
        read_payload: Reads a query in the vendor's own form, as callers of the HTTP API send it; None if there is none.
        served: The part of its API that is answered from stored rows; None if there is none.
        lookups: The listings of names.
        read_lookup: Reads a listing; None if the vendor has none.
        live: The kinds of live reports, by query type; empty if the vendor does not tell of the present.
        payload_examples: Examples of such a query for the HTTP API's description, by name.
        division_dimension: The dimension of its figures that holds the id of a division; None if they name no division.
        refetch_window: How far back the vendor corrects figures that were final; None if it is not known to.
        measures: The measures of its figures by name, as the vendor defines them; a report has those its columns allow.
        example: The fields ``query_type``, ``group_by``, ``metrics`` and ``volume_metric`` of an example report.
    """

    name: str
    account: type[AccountT]
    adapter: type[VendorAdapter]
    create_adapter: Callable[[httpx.AsyncClient, AccountT], VendorAdapter]
    personal_dimensions: frozenset[str]
    rows: Mapping[str, RowRules] = field(default_factory=dict[str, RowRules])
    addresses: Callable[[AccountT], AccountAddresses] = configured_account_addresses
    login_request: LoginRequest | None = None
    login_remedy: str = "the client is enabled and allows the client-credentials grant"
    dialect: Dialect = COMMON_DIALECT
    discover: DiscoverAddresses | None = None
    check_permissions: Callable[[DoctorContext[AccountT]], Awaitable[list[CheckResult]]] = _check_nothing
    read_facts: Callable[[httpx.AsyncClient], Awaitable[AccountFacts]] | None = None
    read_deletions: Callable[[httpx.AsyncClient], AsyncIterator[DeletionRequest]] | None = None
    read_payload: Callable[[object], QueryPayload] | None = None
    served: ServedApi | None = None
    lookups: tuple[Lookup, ...] = ()
    read_lookup: ReadLookup | None = None
    live: Mapping[str, LiveKind] = field(default_factory=dict[str, LiveKind])
    payload_examples: Mapping[str, Any] = field(default_factory=dict[str, Any])
    measures: Mapping[str, Measure] = field(default_factory=dict[str, Measure])
    division_dimension: str | None = None
    refetch_window: timedelta | None = None
    example: Mapping[str, str] = field(default_factory=dict[str, str])

    def find_login_request(self) -> LoginRequest:
        """Return the function that builds the request that logs a client in."""
        from cache_pipeline.upstream.oauth import client_credentials_login

        return self.login_request or client_credentials_login
