"""All settings of the simulator in one frozen model; defaults that no source documents are marked as invented."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Delay = Annotated[float, Field(ge=0, allow_inf_nan=False)]


def _demo_clients() -> dict[str, SecretStr]:
    return {"demo-client": SecretStr("demo-secret")}


#: The vendors that one simulator plays with the same clients.
SIMULATED_VENDORS = ("reportdata", "genesys")
#: The settings under which answers with a day of quarter hours are cut off, so that the recovery is seen.
TRUNCATED_DAYS: Mapping[str, Any] = {"reportdata_max_rows": 1000}


class SimulatorSettings(BaseModel):
    """Settings of the simulated organisation and of its API.

    Documented by the vendor or the guide: `reportdata_rate_limit` (G17), `genesys_rate_limit`, `rate_window_seconds`,
    `token_lifetime_seconds`, `max_body_bytes`. Every other default is invented: the vendor documents nothing about it,
    or nothing binding. To make time run faster, shorten `rate_window_seconds`, `job_seconds_*` and
    `token_lifetime_seconds`.

    Attributes:
        seed: Seed of all random numbers; equal seeds give equal calls.
        organisation_zone: IANA zone of the call centre's daily and weekly pattern (invented default).
        queues: Number of queues; their volumes follow a Zipf distribution (invented default).
        agents: Number of agents (invented default).
        divisions: Number of divisions over which the queues are distributed (invented default).
        conversations_per_working_day: Conversations on an average day from Monday to Friday (invented default).
        service_level_seconds: Longest wait that meets the service level (invented default).
        service_level_target: Share reported as `oServiceLevel.target` (invented default).
        arrivals: CSV (or .csv.gz) with columns `start,calls`, whose volumes are replayed instead of generated ones.
        arrivals_zone: IANA zone of the wall clock in `arrivals`.
        cached_days: Days of calls held in memory (invented default).
        clients: Secret of each OAuth client id.
        client_permissions: Permissions of each OAuth client id; a client that is not listed has all.
        client_divisions: Numbers of the divisions that each OAuth client id can access, from 0; a client that is not
            listed can access all. Data of other divisions is silently omitted from its answers.
        token_lifetime_seconds: Lifetime of an access token; the vendor's default is a day.
        rate_window_seconds: Length of the rate-limit window.
        rate_window_kind: Whether the window slides or restarts at each full minute of the clock; the vendor does not
            document which (invented default).
        rate_limit_scope: Whether each access token or each OAuth client has its own limit.
        reportdata_rate_limit: Requests per window on the reportdata endpoints (G17).
        genesys_rate_limit: Requests per window on the other endpoints.
        genesys_org_rate_limit: Requests per window of the whole organisation, in addition to each token's limit; null for
            none (invented default; sources contradict each other).
        genesys_concurrent_jobs: Jobs of the organisation that may run at once; null for no limit (invented default; the
            vendor has such a limit and publishes no figure).
        genesys_submits_per_second: Jobs that may be submitted each second; null for no limit (invented default; likewise).
        report_limit_in_429: Whether a 429 names the limit that was reached, as captured answers do; the vendor does not
            promise it.
        retention_days: How many days the organisation says that it keeps figures; null if it does not say (invented default). All
            figures are there nevertheless.
        max_body_bytes: A larger request body is refused with 413.
        watermark_lag_seconds: Delay after which data is complete, to the whole minute (invented default).
        details_lag_seconds: The same for the data lake that details jobs read; null for `watermark_lag_seconds`
            (invented default; the vendor mentions up to a day).
        thread_share: Share of answered e-mails that are answered to and fro for one to seven days, as captured conversations
            are (invented default).
        orphan_share: Share of conversations that never get a `conversationEnd` (invented default).
        job_seconds_base: Shortest duration of a job (invented default).
        job_seconds_per_1000_cells: Added for each thousand requested buckets x groups (invented default).
        job_seconds_variation: Share by which a duration may vary; equal requests vary equally (invented default).
        job_lifetime_seconds: Time after submission until a job's results expire (invented default).
        reportdata_max_rows: A longer reportdata result is silently truncated, in time order (invented default).
        split_by_medium: Whether aggregates of conversations and flows have a group for each `mediaType` even if the query
            does not group by it, as captured answers of real organisations have.
        genesys_max_cells: A synchronous aggregate with more group-buckets is silently truncated, in time order
            (invented default).
        genesys_default_page_size: Groups on a page of job results when the query names no `pageSize`
            (invented default).
        genesys_max_page_size: Largest `pageSize` accepted (invented default).
        genesys_not_ready_status: HTTP status of a results call before the job is FULFILLED (invented default).
        genesys_expired_status: HTTP status of a results call after the job has EXPIRED (invented default).
        aggregate_jobs: Whether the organisation has aggregate jobs, which the vendor marks as preview; without them the
            answer is 404 (invented default).
        details_default_page_size: Entries on a page of details results by default (invented default).
        details_max_page_size: Largest page size of details results (invented default; 1000 is known to work).
        details_job_max_days: Longest interval of a details job (invented default).
        conversations_query_max_days: Longest interval of a conversation details query (invented default; sources say both
            31 and 7).
        user_aggregate_min_seconds: Shortest granularity of user aggregates (invented default; the vendor has a limit).
        cxone_domain: Domain that discovery returns; the API host is `api-na1` in it. Localhost and the port by default.
        cxone_call_seconds: Interval in which a tenant may call CXone's Data Extraction once; documented by that vendor.
        cxone_busy_status: HTTP status of a call that comes too early (invented default; a third party reports 403).
        cxone_end_date_included: Whether an extraction includes its `endDate` (invented default).
        notification_seconds: Real seconds between two looks for changes to tell of on notification channels (invented default).
        max_buckets: A query with more time buckets is refused with 400 (invented default).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: Annotated[int, Field(ge=0)] = 20240101
    organisation_zone: str = "Europe/Berlin"
    queues: Annotated[int, Field(ge=1, le=5000)] = 8
    agents: Annotated[int, Field(ge=1, le=50_000)] = 30
    divisions: Annotated[int, Field(ge=1, le=100)] = 2
    conversations_per_working_day: Annotated[int, Field(ge=0, le=1_000_000)] = 6000
    service_level_seconds: Delay = 20.0
    service_level_target: Annotated[float, Field(ge=0, le=1)] = 0.8
    arrivals: Path | None = None
    arrivals_zone: str = "UTC"
    cached_days: Annotated[int, Field(ge=1)] = 120

    clients: dict[str, SecretStr] = Field(default_factory=_demo_clients)
    client_permissions: dict[str, frozenset[str]] = Field(default_factory=dict[str, frozenset[str]])
    client_divisions: dict[str, frozenset[int]] = Field(default_factory=dict[str, frozenset[int]])
    token_lifetime_seconds: Seconds = 86_400.0

    rate_window_seconds: Seconds = 60.0
    rate_window_kind: Literal["sliding", "fixed"] = "sliding"
    rate_limit_scope: Literal["token", "client"] = "token"
    reportdata_rate_limit: Annotated[int, Field(ge=1)] = 60
    genesys_rate_limit: Annotated[int, Field(ge=1)] = 300
    genesys_org_rate_limit: Annotated[int | None, Field(ge=1)] = None
    genesys_concurrent_jobs: Annotated[int | None, Field(ge=1)] = None
    genesys_submits_per_second: Annotated[int | None, Field(ge=1)] = None
    report_limit_in_429: bool = True
    retention_days: Annotated[int | None, Field(ge=1)] = None
    max_body_bytes: Annotated[int, Field(ge=1)] = 512_000

    watermark_lag_seconds: Delay = 120.0
    details_lag_seconds: Delay | None = None
    thread_share: Annotated[float, Field(ge=0, le=1)] = 0.01
    orphan_share: Annotated[float, Field(ge=0, le=1)] = 0.0

    job_seconds_base: Delay = 0.8
    job_seconds_per_1000_cells: Delay = 0.6
    job_seconds_variation: Annotated[float, Field(ge=0, lt=1)] = 0.2
    job_lifetime_seconds: Seconds = 86_400.0

    reportdata_max_rows: Annotated[int, Field(ge=1)] = 2000
    split_by_medium: bool = True
    genesys_max_cells: Annotated[int, Field(ge=1)] = 100_000
    genesys_default_page_size: Annotated[int, Field(ge=1)] = 1000
    genesys_max_page_size: Annotated[int, Field(ge=1)] = 1000
    genesys_not_ready_status: Annotated[int, Field(ge=400, le=499)] = 400
    genesys_expired_status: Annotated[int, Field(ge=400, le=499)] = 404
    aggregate_jobs: bool = True
    details_default_page_size: Annotated[int, Field(ge=1)] = 1000
    details_max_page_size: Annotated[int, Field(ge=1)] = 1000
    details_job_max_days: Annotated[int, Field(ge=1)] = 31
    conversations_query_max_days: Annotated[int, Field(ge=1)] = 31
    user_aggregate_min_seconds: Annotated[int, Field(ge=1)] = 300
    cxone_domain: str | None = None
    cxone_call_seconds: Seconds = 30.0
    cxone_busy_status: Annotated[int, Field(ge=400, le=499)] = 403
    cxone_end_date_included: bool = True
    notification_seconds: Seconds = 0.5
    max_buckets: Annotated[int, Field(ge=1)] = 200_000

    @field_validator("organisation_zone", "arrivals_zone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (KeyError, ValueError, OSError):
            msg = f"unknown IANA time zone '{name}'; use a name such as Europe/Berlin"
            raise ValueError(msg) from None
        return name
