"""Every setting, read from the environment or ``.env``, typed and validated once; secrets stay masked."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, timedelta
from difflib import get_close_matches
from ipaddress import IPv4Network, IPv6Network, ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from dotenv import dotenv_values
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    HttpUrl,
    Secret,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from cache_pipeline.errors import SettingsError
from cache_pipeline.path_patterns import PathPattern

_PREFIX = "CACHE_PIPELINE_"
_ENV_FILE = ".env"
_ACCOUNTS = f"{_PREFIX}ACCOUNTS__"
#: Variables of the tests, and of the Celery profile's own configuration files.
_OTHER_PREFIXES = (f"{_PREFIX}TEST_", f"{_PREFIX}CELERY_")
#: Ends the name of a variable that names a file.
_FILE_SUFFIX = "_file"
#: A vendor's or an account's name is a part of an environment variable.
ACCOUNT_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", re.ASCII)


def _check_name(name: str) -> str:
    if not ACCOUNT_NAME.fullmatch(name) or len(name) > 32:
        raise ValueError("a name has up to 32 lower-case letters, digits and single underscores, such as main")
    return name


_Name = Annotated[str, AfterValidator(_check_name)]


def _read_passed_paths(value: object) -> object:
    """Return a pattern of paths that may be passed through: one with a wildcard only reads."""
    if not isinstance(value, str):
        return value
    pattern = PathPattern.parse(value)
    if pattern.has_wildcard and not pattern.only_reads:
        raise ValueError(
            f"{value[:80]!r} could change something at paths that it does not name: name each path of {pattern.method} in full; only "
            "GET, and POST of paths that end in /query, may have a wildcard"
        )
    return pattern


_PassedPaths = Annotated[PathPattern, BeforeValidator(_read_passed_paths)]


def is_loopback(host: str) -> bool:
    """Return whether a host name refers to this machine."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


class ClientCredentials(BaseModel, frozen=True, extra="forbid"):
    """One OAuth client of a vendor account.

    Attributes:
        client_id: The id, as issued by the vendor.
        client_secret: The secret, as issued by the vendor. It is masked wherever settings are printed.
        weight: The client's share of the round-robin (G18).
    """

    client_id: str = Field(min_length=1)
    client_secret: SecretStr
    weight: int = Field(1, ge=1)


class VendorAccount(BaseModel, frozen=True):
    """The settings of one vendor account: one organisation, its address and the OAuth clients that may use it.

    Settings hold the fields that every vendor's accounts have. Other fields are masked until the vendor's own model of an
    account, which derives from this one, has checked them.

    Attributes:
        base_url: The API's address, for example ``https://api.example.com``.
        login_url: The token endpoint.
        clients: The pool of OAuth clients.
        rate_limit: Requests per window and client; overrides the vendor's documented limit.
        window_seconds: Length of the rate limit's window; overrides the vendor's documented one.
        organisation: A name that accounts of one organisation share, in this deployment or in others with the same Redis, so that
            they keep to the organisation's limits together. By default accounts whose first client is the same.
        organisation_rate_limit: Requests per window of all clients together, if the organisation has such a limit. A refusal or
            the vendor's own list may name a lower one.
        monthly_requests: Requests that the contract allots to the organisation each calendar month, in UTC. Plans, estimates and
            `cache-pipeline quota` say what of it is used; nothing is refused when it is used up.
        concurrent_jobs: Jobs of the organisation that may run at once, likewise.
        retention_days: How long the vendor keeps figures, if the organisation has set a limit. Older gaps are refused instead
            of queried. By default no limit is assumed.
        poll_policy: ``guide`` polls a job after 1, 2, 4, 8, 15, 15, ... seconds. ``adaptive`` never polls more often, and skips
            polls that the job's percentage or the durations of earlier jobs show to be futile.
        pause_seconds: How long a client pauses after a 429 without Retry-After (G16).
        job_deadline_seconds: A query that is not finished this long after it was submitted is abandoned, cancelled if the vendor
            supports it, and submitted again.
        proxy: The HTTP proxy through which the vendor is reached, such as ``http://user:password@proxy.example:3128``. The
            environment's ``HTTPS_PROXY`` has no effect.
        allow_insecure_http: Allow secrets to be sent to another machine without TLS; only for a simulator on your own network.
        pass_through: Requests on the vendor's own paths that are passed on to the vendor because they are not answered here, such as
            ``["GET /api/v2/users/*"]``: a method and a path, in which ``*`` is any one part and ``**`` at the end any number of
            parts. Only GET, and POST of paths that end in ``/query``, may have them: a path that could change something is named in
            full. One account of a vendor may have such a list.
    """

    model_config = ConfigDict(extra="allow", coerce_numbers_to_str=True, hide_input_in_errors=True)
    __pydantic_extra__: dict[str, Secret[Any]] = Field(init=False)  # pyright: ignore[reportIncompatibleVariableOverride]

    base_url: HttpUrl | None = None
    login_url: HttpUrl | None = None
    clients: tuple[ClientCredentials, ...] = Field(min_length=1)
    rate_limit: int | None = Field(None, ge=4)
    window_seconds: float | None = Field(None, gt=0)
    organisation: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    organisation_rate_limit: int | None = Field(default=None, ge=1)
    monthly_requests: int | None = Field(default=None, ge=1)
    concurrent_jobs: int | None = Field(default=None, ge=1)
    retention_days: int | None = Field(default=None, ge=1)
    poll_policy: Literal["adaptive", "guide"] = "adaptive"
    pause_seconds: float = Field(default=60.0, ge=0)
    job_deadline_seconds: float = Field(default=1800.0, gt=0)
    proxy: SecretStr | None = None
    allow_insecure_http: bool = False
    pass_through: tuple[_PassedPaths, ...] = ()

    @field_validator("proxy")
    @classmethod
    def _check_proxy(cls, proxy: SecretStr | None) -> SecretStr | None:
        if proxy is not None:
            try:
                url = urlsplit(proxy.get_secret_value())
                is_complete = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
            except ValueError:
                is_complete = False
            if not is_complete:
                raise ValueError("must be the URL of an HTTP proxy, such as http://proxy.example:3128")
        return proxy

    def urls(self) -> tuple[HttpUrl | None, ...]:
        """Return the addresses to which secrets are sent."""
        return self.base_url, self.login_url

    @property
    def is_insecure(self) -> bool:
        """Whether client secrets and access tokens would cross a network unencrypted."""
        urls = [url for url in self.urls() if url is not None]
        return any(url.scheme == "http" and not is_loopback(url.host or "") for url in urls)

    @model_validator(mode="after")
    def _check_encryption(self) -> Self:
        if self.is_insecure and not self.allow_insecure_http:
            raise ValueError(
                "client secrets and access tokens would be sent unencrypted: use https, or set allow_insecure_http: true "
                "for a simulator on your own network"
            )
        return self

    def given_fields(self) -> dict[str, Any]:
        """Return the fields that were set, unmasked, for the vendor's own model."""
        values = {name: getattr(self, name) for name in self.model_fields_set}
        return {name: each.get_secret_value() if isinstance(each, Secret) else each for name, each in values.items()}


class ApiSettings(BaseModel, frozen=True, extra="forbid"):
    """How the HTTP API serves requests.

    Attributes:
        auth: ``keys`` requires an API key from every caller. ``off`` admits every caller and is refused except on loopback.
        shared_caches: Whether a CDN or proxy may cache answers for all callers, not only the caller's own browser.
        cors_origins: Origins whose pages may read the API, or ``["*"]``.
        trusted_proxies: Networks of proxies that sign people in. Their ``X-Forwarded-User`` names an operator, and their
            ``X-Forwarded-Proto`` is believed; from other addresses both are ignored.
        requests_per_minute: The limit per API key, unless the key has its own.
        audit_log: Whether to log who asked what: a line of the logger ``cache_pipeline.audit`` for each request.
        max_body_bytes: The largest accepted request body.
        max_buckets: The most buckets in a query's interval, regardless of its grouping.
        max_rows: The most rows of an answer.
        max_answer_bytes: The most bytes of an answer's JSON.
        vendor_paths: Whether to answer the vendors' own paths too, so that a client of a vendor only changes the host name.
        vendor_hold_seconds: How long a query on a vendor's path waits for figures that must be fetched. Proxies usually end a
            request after 30 or 60 seconds.
        ad_hoc_series: How many different queries on those paths, that no declared report holds, are fetched and stored nevertheless;
            those that differ only in interval and metrics count once. 0 refuses them.
        ad_hoc_days: How long their rows are kept after the last request.
        detail_jobs: Whether the vendor's own detail jobs answer at its paths too. They have personal data, such as telephone numbers,
            and every key that is not bound to reports or divisions may read them.
        token_seconds: Lifetime of an access token that a key was exchanged for. The default is that of the vendors, whose
            clients log in once and do not renew it.
        push: Whether one of the API's processes follows the vendor's own notifications of changes, where the vendor has them, so
            that live reports are fresh to a second.
    """

    auth: Literal["keys", "off"] = "keys"
    shared_caches: bool = False
    cors_origins: tuple[str, ...] = ()
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = ()
    requests_per_minute: int = Field(default=6000, ge=1)
    audit_log: bool = False
    max_body_bytes: int = Field(default=64 * 1024, ge=1)
    max_buckets: int = Field(default=40_000, ge=1)
    max_rows: int = Field(default=200_000, ge=1)
    max_answer_bytes: int = Field(default=32 * 1024 * 1024, ge=1024)
    push: bool = False
    vendor_paths: bool = True
    vendor_hold_seconds: float = Field(default=25, ge=0, le=300)
    ad_hoc_series: int = Field(default=100, ge=0)
    ad_hoc_days: int = Field(default=7, ge=1)
    detail_jobs: bool = False
    token_seconds: int = Field(default=86_400, ge=60)


class LogSettings(BaseModel, frozen=True, extra="forbid"):
    """How log lines are written.

    Attributes:
        format: ``text``, ``json``, or ``auto`` for text on a terminal and JSON elsewhere. Dagster's processes use Dagster's
            format unless ``text`` or ``json`` is set.
        level: The level of cache_pipeline's own lines; by default INFO in JSON and WARNING in text.
    """

    format: Literal["auto", "text", "json"] = "auto"
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] | None = None


class JobSettings(BaseModel, frozen=True, extra="forbid"):
    """The queue between the HTTP API and its workers.

    Attributes:
        queue_url: ``redis://`` (also with Sentinel or a cluster), ``amqp://`` (RabbitMQ) or ``sqs://region/queue``; by default
            the Redis of ``redis_url``.
        concurrency: Jobs that one worker runs concurrently. Jobs mostly wait for the vendor, so this may exceed the number of
            cores by far. One API key gets half of them, unless it is 1.
        max_attempts: Attempts after which a job fails, counting retryable errors and workers that died.
        lease_seconds: How long after its last heartbeat a dead worker's jobs are taken over.
        drain_seconds: How long a worker that is shutting down continues with its running jobs.
        alive_file: A file that a worker touches each second, for a supervisor that restarts a worker that hangs.
    """

    queue_url: SecretStr | None = None
    concurrency: int = Field(default=200, ge=1)
    max_attempts: int = Field(default=3, ge=1)
    lease_seconds: float = Field(default=15.0, gt=0)
    drain_seconds: float = Field(default=20.0, ge=0)
    alive_file: Path | None = None


class _VariableSettingsSource(EnvSettingsSource):
    """Read ``CACHE_PIPELINE_X``; a variable that names a file would else pass for an account."""

    def _load_env_vars(self) -> Mapping[str, str | None]:
        prefix = self.env_prefix.lower()
        variables = super()._load_env_vars()
        return {
            name: value
            for name, value in variables.items()
            if not (name.startswith(prefix) and name.endswith(_FILE_SUFFIX))
        }


class _FileSettingsSource(EnvSettingsSource):
    """Read ``CACHE_PIPELINE_X`` from the file that ``CACHE_PIPELINE_X_FILE`` names, such as a mounted secret."""

    def _load_env_vars(self) -> Mapping[str, str | None]:
        variables = super()._load_env_vars()
        prefix, suffix = self.env_prefix.lower(), _FILE_SUFFIX
        paths = {
            name.removesuffix(suffix): path
            for name, path in variables.items()
            if name.startswith(prefix) and name.endswith(suffix) and path
        }
        for name in paths:
            if name in variables:
                raise SettingsError(f"{name.upper()} and {name.upper()}_FILE are both set: keep one")
        return {name: _read_file(f"{name.upper()}_FILE", path) for name, path in paths.items()}


def _read_file(variable: str, path: str) -> str:
    try:
        content = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{variable}: {path} cannot be read ({type(error).__name__})") from None
    if not content:
        raise SettingsError(f"{variable}: {path} is empty")
    return content


class Settings(BaseSettings):
    """The settings of one process, read from ``CACHE_PIPELINE_*``.

    The name of a nested field has two underscores before the inner name. Every variable may also be given as
    ``CACHE_PIPELINE_*_FILE``, which names a file that holds the value.

    Attributes:
        postgres_url: The PostgreSQL server for history, coverage and Dagster's own storage.
        postgres_read_url: A replica of that server, from which the rows of answers are read while it is not behind.
        redis_url: The Redis server for the hot tier, the quota and locks: ``redis://``, ``rediss://``, ``unix://``, or
            ``redis+sentinel://host:port,host:port/service`` or ``redis+cluster://host:port,host:port`` with failover.
        data_dir: The folder for staged Parquet files, and for the edge store if ``edge_url`` is not set.
        reports_dir: The folder of report declarations.
        edge_url: The edge store: ``file://``, ``s3://``, ``gs://`` or ``az://``.
        edge_public_url: The public address of the tenant's folder, as readers fetch it through the CDN. A sensor reads it back.
        iceberg_catalog_url: A database with an Iceberg catalogue, ``postgresql://`` or ``sqlite:///file``, in which published files
            are registered; requires the extra ``iceberg``.
        ducklake_catalog_url: A database with a DuckLake catalogue, ``postgresql://`` or ``duckdb:///file``, likewise; requires the
            extra ``ducklake`` and DuckDB's extension of that name.
        warehouse_url: The warehouse that history is exported to, with credentials if it needs any: ``duckdb:///file``,
            ``postgresql://``, ``mssql://``, ``snowflake://``, ``bigquery://project``, or a folder of Parquet files, ``file://``,
            ``s3://``, ``gs://`` or ``az://``. ``?dataset=name`` names the schema or folder.
        tenant: The tenant whose data this deployment holds.
        accounts: The vendor accounts, by vendor and by a name of your choice. The names are part of stored rows' identity. A
            vendor's only account is best called ``main``.
        api: How the HTTP API serves requests.
        jobs: The queue between the HTTP API and its workers.
        log: How log lines are written.
        traces: ``otlp`` sends spans to the collector at ``OTEL_EXPORTER_OTLP_ENDPOINT``; requires the extra ``otel``.
        startup_seconds: How long the API and its workers wait at startup for PostgreSQL to become reachable before they exit with
            code 2. A URL that the server refuses is reported immediately.
        staged_retention: How long staged files are kept, as an ISO 8601 duration (``P14D``); older ones are deleted once a day.
        vendor_deletions: ``pseudonymise`` or ``remove`` adds a daily job to Dagster that forgets the people whose data the vendors have
            deleted on request, as ``cache-pipeline forget --from-vendor`` does; start its schedule in the UI.
        sensors: ``running`` starts the sensors that keep reports current when Dagster first loads the project; by default each is
            started in the UI. What was switched there stays as it is.
        partitions_from: The first day of every report's partitions, instead of its own start: for replaying past volumes. Earlier days are
            not missing; the API still fetches them on demand.
        partitions_to: Ends every report's partitions before this day, likewise.
    """

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX,
        env_nested_delimiter="__",
        env_file=_ENV_FILE,
        extra="ignore",
        hide_input_in_errors=True,
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources by precedence: arguments, the environment, the files it names, ``.env``."""
        variables = _VariableSettingsSource(settings_cls)
        return init_settings, variables, _FileSettingsSource(settings_cls), dotenv_settings

    postgres_url: SecretStr | None = None
    postgres_read_url: SecretStr | None = None
    redis_url: SecretStr | None = None
    data_dir: Path = Path("data")
    reports_dir: Path = Path("reports")
    edge_url: str | None = None
    edge_public_url: str | None = None
    iceberg_catalog_url: SecretStr | None = None
    ducklake_catalog_url: SecretStr | None = None
    warehouse_url: SecretStr | None = None
    tenant: str = Field(default="default", pattern=r"^[a-z0-9][a-z0-9_-]{0,47}$")
    accounts: dict[_Name, dict[_Name, VendorAccount]] = Field(default_factory=dict)
    api: ApiSettings = ApiSettings()
    jobs: JobSettings = JobSettings()
    log: LogSettings = LogSettings()
    traces: Literal["off", "otlp"] = "off"
    startup_seconds: float = Field(default=120.0, ge=0)
    staged_retention: timedelta = Field(default=timedelta(days=14), gt=timedelta(0))
    vendor_deletions: Literal["off", "pseudonymise", "remove"] = "off"
    sensors: Literal["stopped", "running"] = "stopped"
    partitions_from: date | None = None
    partitions_to: date | None = None

    @model_validator(mode="after")
    def _check_partition_range(self) -> Settings:
        if self.partitions_from and self.partitions_to and self.partitions_from >= self.partitions_to:
            raise ValueError("partitions_from must be before partitions_to")
        return self

    @property
    def edge_store_url(self) -> str:
        """The edge store's URL, by default a folder in ``data_dir``."""
        return self.edge_url or f"file://{self.data_dir.resolve() / 'edge'}"

    @property
    def staged_dir(self) -> Path:
        """The folder of the partitions that are fetched and not yet published."""
        return self.data_dir / "staged"

    def required_postgres_url(self) -> str:
        """Return the PostgreSQL URL.

        Raises:
            SettingsError: It is not set.
        """
        return _require_url(self.postgres_url, "POSTGRES_URL")

    def optional_postgres_read_url(self) -> str | None:
        """Return the URL of PostgreSQL's read replica, or None if there is none."""
        return self.postgres_read_url.get_secret_value() if self.postgres_read_url else None

    def required_redis_url(self) -> str:
        """Return the Redis URL.

        Raises:
            SettingsError: It is not set.
        """
        return _require_url(self.redis_url, "REDIS_URL")


class StandaloneSettings(Settings):
    """Settings from arguments only: neither the environment nor ``.env`` is read.

    Demo and benchmarks use them, so that they cannot touch a real deployment.
    """

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the arguments as the only source."""
        return (init_settings,)


def account_ids(settings: Settings) -> list[str]:
    """Return the vendor and name of every account, such as ``vendor/main``."""
    return [f"{vendor}/{name}" for vendor, accounts in settings.accounts.items() for name in accounts]


def _require_url(url: SecretStr | None, name: str) -> str:
    if url is None:
        raise SettingsError(
            f"CACHE_PIPELINE_{name} is not set: set it to the server's URL, or run the command with embedded servers: "
            "`cache-pipeline with-servers -- COMMAND`"
        )
    return url.get_secret_value()


def read_settings() -> Settings:
    """Read the settings of this process.

    Raises:
        SettingsError: A variable is unknown or invalid; the message names it.
    """
    _refuse_unknown_variables([*os.environ, *dotenv_values(_ENV_FILE)])
    try:
        return Settings()
    except ValidationError as error:
        problems = [f"{_PREFIX}{'__'.join(path).upper()}: {message}" for path, message in explain_problems(error)]
        raise SettingsError("; ".join(problems)) from None


def explain_problems(
    error: ValidationError, unknown: str = "there is no such setting"
) -> Iterator[tuple[list[str], str]]:
    """Yield the problems that a model of settings found, as the path of the field and a message without its value.

    Args:
        error: The model's error.
        unknown: The message for a field that the model does not have.
    """
    for problem in error.errors(include_input=False, include_url=False, include_context=False):
        message = unknown if problem["type"] == "extra_forbidden" else problem["msg"].removeprefix("Value error, ")
        yield [str(part) for part in problem["loc"]], message


def _refuse_unknown_variables(variables: Iterable[str]) -> None:
    """Refuse misspelt variables, which would otherwise be ignored without a word.

    The fields of an account are its vendor's, who refuses unknown ones itself.
    """
    known = _variable_names(Settings)
    problems: list[str] = []
    for variable in sorted({variable.upper() for variable in variables}):
        name = variable.removesuffix(_FILE_SUFFIX.upper())
        if name in known or not name.startswith(_PREFIX) or name.startswith((_ACCOUNTS, *_OTHER_PREFIXES)):
            continue
        near = get_close_matches(name, known, n=1, cutoff=0.8)
        problems.append(f"{variable}: there is no such setting" + (f"; did you mean {near[0]}?" if near else ""))
    if problems:
        raise SettingsError("; ".join(problems), remedy="correct or unset it; docs/settings.md lists every setting")


def _variable_names(model: type[BaseModel], prefix: str = _PREFIX) -> list[str]:
    """Return the variables of a model's fields, and of the fields of the models in it."""
    names: list[str] = []
    for field, info in model.model_fields.items():
        names.append(f"{prefix}{field.upper()}")
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            names += _variable_names(info.annotation, f"{names[-1]}__")
    return names
