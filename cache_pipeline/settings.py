"""Every setting, from the environment or ``.env``, typed and checked once; secrets stay masked."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from ipaddress import ip_address
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, HttpUrl, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from cache_pipeline.errors import SettingsError

#: Where NICE's logins follow from the area that its issuer tells.
_NICE_DOMAINS = (".niceincontact.com", ".nice-incontact.com")


def is_loopback(host: str) -> bool:
    """Whether a host's name is this machine's own."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


class ClientCredentials(BaseModel, frozen=True):
    """One OAuth client of a vendor account.

    Attributes:
        client_id: as the vendor gave it.
        client_secret: the same; masked wherever settings are shown.
        weight: its share of the round-robin (G18).
    """

    client_id: str = Field(min_length=1)
    client_secret: SecretStr
    weight: int = Field(1, ge=1)


class VendorAccount(BaseModel, frozen=True):
    """Where a vendor's API is and which OAuth clients may ask it.

    Attributes:
        base_url: of the API, ``https://api.mypurecloud.de``, say.
        region: of Genesys, in place of ``base_url``: ``eu_central_1``, say.
        issuer: of CXone, in place of ``base_url``: ``https://cxone.niceincontact.com``, say; the API's address is found out
            there before the first request. A ``base_url`` that is given all the same is used, and nothing is found out.
        tenant_id: of CXone, whose API it is; by default the tenant that the access key's token names.
        login_url: of the token endpoint; by default the host with ``api.`` replaced by ``login.``, as Genesys has it. CXone
            has no such rule, and wants it said, but where NICE's own issuer is asked with a ``tenant_id``.
        clients: the token pool; of CXone the id and the secret of an access key, of which there is one: its limit is the
            tenant's.
        requests_per_window: overrides the platform's documented limit for each client.
        window_seconds: overrides the length of the platform's window.
        retention_days: how long the vendor keeps figures, where its organisation has set that (Genesys' own word is its
            ``analytics/dataretention/settings``); older gaps are refused, not asked for. By default nothing is known of it.
        poll_policy: ``guide`` polls a job after 1, 2, 4, 8, 15, 15, ... seconds; ``adaptive`` never more often, and leaves
            out polls that its percentages or the durations of earlier jobs show to be futile.
        pause_seconds: how long a client pauses after a 429 that says no Retry-After (G16).
        job_deadline_seconds: a query that is not done so long after it was sent is given up, cancelled where the vendor has a
            way to, and asked for anew.
        plain_http: lets secrets go to another machine without TLS; for a simulator on a network of one's own.
    """

    base_url: HttpUrl | None = None
    region: str | None = None
    issuer: HttpUrl | None = None
    tenant_id: str | None = Field(default=None, min_length=1)
    login_url: HttpUrl | None = None
    clients: tuple[ClientCredentials, ...] = Field(min_length=1)
    requests_per_window: int | None = Field(None, ge=4)
    window_seconds: float | None = Field(None, gt=0)
    retention_days: int | None = Field(default=None, ge=1)
    poll_policy: Literal["adaptive", "guide"] = "adaptive"
    pause_seconds: float = Field(default=60.0, ge=0)
    job_deadline_seconds: float = Field(default=1800.0, gt=0)
    plain_http: bool = False

    @property
    def is_open(self) -> bool:
        """Whether client secrets and access tokens would cross a network unencrypted."""
        given = [url for url in (self.base_url, self.issuer, self.login_url) if url is not None]
        return any(url.scheme == "http" and not is_loopback(url.host or "") for url in given)

    @model_validator(mode="after")
    def _keeps_its_secrets(self) -> VendorAccount:
        if self.is_open and not self.plain_http:
            raise ValueError(
                "client secrets and access tokens would go unencrypted: use https, or say plain_http: true for a "
                "simulator on a network of your own"
            )
        return self

    @model_validator(mode="after")
    def _has_one_address(self) -> VendorAccount:
        if (self.base_url or self.issuer) is None and self.region is None:
            raise ValueError("give base_url or, for Genesys, region or, for CXone, issuer")
        if self.region is not None and (self.base_url or self.issuer) is not None:
            raise ValueError("give either base_url or, for Genesys, region")
        if self.tenant_id is not None and self.issuer is None:
            raise ValueError("tenant_id is for the issuer, which is not set")
        return self

    @property
    def tells_its_login(self) -> bool:
        """Whether the login's address follows from what is discovered: at NICE's own issuer, and of a tenant that is named."""
        host = (self.issuer.host or "") if self.issuer else ""
        return self.base_url is None and self.tenant_id is not None and f".{host}".endswith(_NICE_DOMAINS)

    def login_address(self, base_url: str) -> str:
        """The token endpoint of the API at ``base_url``."""
        if self.login_url is not None:
            return str(self.login_url)
        return base_url.rstrip("/").replace("//api.", "//login.") + "/oauth/token"


class GatewaySettings(BaseModel, frozen=True):
    """How the HTTP API serves.

    Attributes:
        auth: ``keys`` wants an API key of every caller; ``off`` lets anybody in, and is refused but on loopback.
        shared_caches: whether a CDN or a proxy may keep answers for everybody, not the caller's own browser alone.
        cors_origins: origins whose pages may read the API, or ``["*"]``.
        requests_per_minute: of one key, unless the key has a limit of its own.
        max_body_bytes: of a request.
        max_buckets: a query's interval may have so many, whatever it is grouped by.
    """

    auth: Literal["keys", "off"] = "keys"
    shared_caches: bool = False
    cors_origins: tuple[str, ...] = ()
    requests_per_minute: int = Field(default=6000, ge=1)
    max_body_bytes: int = Field(default=64 * 1024, ge=1)
    max_buckets: int = Field(default=40_000, ge=1)


class LogSettings(BaseModel, frozen=True):
    """How log lines are written.

    Attributes:
        format: ``text``, ``json``, or by ``auto`` text at a terminal and JSON elsewhere. Dagster's processes write as Dagster
            does, but where one of the two is named.
        level: of our own lines; by default INFO in JSON, and WARNING in text.
    """

    format: Literal["auto", "text", "json"] = "auto"
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] | None = None


class JobSettings(BaseModel, frozen=True):
    """The queue between the HTTP API and its workers.

    Attributes:
        queue_url: ``redis://``, ``amqp://`` (RabbitMQ) or ``sqs://region/queue``; by default the settings' Redis.
        at_once: jobs that one worker runs side by side; they wait for the vendor, not for a processor.
        attempts: a job is given up after so many; for errors that may pass, and for workers that died of it.
        lease_seconds: a dead worker's jobs are taken over after this long.
        drain_seconds: how long a worker that is asked to end goes on with the jobs it has.
    """

    queue_url: SecretStr | None = None
    at_once: int = Field(default=200, ge=1)
    attempts: int = Field(default=3, ge=1)
    lease_seconds: float = Field(default=15.0, gt=0)
    drain_seconds: float = Field(default=20.0, ge=0)


class _FromFiles(EnvSettingsSource):
    """``CACHE_PIPELINE_X_FILE`` names a file that holds what ``CACHE_PIPELINE_X`` would: a mounted secret."""

    def _load_env_vars(self) -> Mapping[str, str | None]:
        given = super()._load_env_vars()
        prefix, suffix = self.env_prefix.lower(), "_file"
        named = {
            name.removesuffix(suffix): path
            for name, path in given.items()
            if name.startswith(prefix) and name.endswith(suffix) and path
        }
        for name in named:
            if name in given:
                raise SettingsError(f"{name.upper()} and {name.upper()}_FILE are both set: keep one")
        return {name: _content(f"{name.upper()}_FILE", path) for name, path in named.items()}


def _content(variable: str, path: str) -> str:
    try:
        content = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{variable}: {path} cannot be read ({type(error).__name__})") from None
    if not content:
        raise SettingsError(f"{variable}: {path} is empty")
    return content


class Settings(BaseSettings):
    """Read from ``CACHE_PIPELINE_*``; a nested field is written with two underscores between.

    Every variable may be given as ``CACHE_PIPELINE_*_FILE`` too, which names a file with its value.

    Attributes:
        postgres_url: history, coverage and Dagster's own storage.
        redis_url: hot tier, quota and locks.
        data_dir: staged Parquet, and the edge store where no ``edge_url`` is given.
        reports_dir: the declarations.
        edge_url: ``file://``, ``s3://``, ``gs://`` or ``az://``.
        edge_public_url: of the tenant's folder as readers get it, through the CDN; read back by a sensor.
        edge_labels: YAML file with names for ids, shown on the page: column, then id and name.
        tenant: whose data this deployment holds.
        reportdata: account for the platform of that name, and likewise ``genesys`` and ``cxone``.
        gateway: how the HTTP API serves.
        jobs: the queue behind it.
        log: how log lines are written.
        traces: ``otlp`` sends spans to the collector of ``OTEL_EXPORTER_OTLP_ENDPOINT``; needs the extra ``otel``.
        startup_seconds: how long gateway and workers wait, when they start, for a PostgreSQL that is not there yet; then they end,
            with exit code 2. A URL that it refuses is told of at once.
        partitions_from: overrides every report's first day, for replays of past volumes.
        partitions_to: ends every report's partitions before this day, likewise.
    """

    model_config = SettingsConfigDict(
        env_prefix="CACHE_PIPELINE_",
        env_nested_delimiter="__",
        env_file=".env",
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
        """What is said in code comes first, then the environment, the files that it names, and ``.env``."""
        return init_settings, env_settings, _FromFiles(settings_cls), dotenv_settings

    postgres_url: SecretStr | None = None
    redis_url: SecretStr | None = None
    data_dir: Path = Path("data")
    reports_dir: Path = Path("reports")
    edge_url: str | None = None
    edge_public_url: str | None = None
    edge_labels: Path | None = None
    tenant: str = Field(default="default", pattern=r"^[a-z0-9][a-z0-9_-]{0,47}$")
    reportdata: VendorAccount | None = None
    genesys: VendorAccount | None = None
    cxone: VendorAccount | None = None
    gateway: GatewaySettings = GatewaySettings()
    jobs: JobSettings = JobSettings()
    log: LogSettings = LogSettings()
    traces: Literal["off", "otlp"] = "off"
    startup_seconds: float = Field(default=120.0, ge=0)
    partitions_from: date | None = None
    partitions_to: date | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Settings:
        if self.partitions_from and self.partitions_to and self.partitions_from >= self.partitions_to:
            raise ValueError("partitions_from must lie before partitions_to")
        return self

    @model_validator(mode="after")
    def _addresses_that_its_vendor_has(self) -> Settings:
        if any(account is not None and account.region for account in (self.reportdata, self.cxone)):
            raise ValueError("region is of genesys alone: give base_url")
        if any(account is not None and account.issuer for account in (self.reportdata, self.genesys)):
            raise ValueError("issuer is of cxone alone: give base_url")
        if self.cxone is not None and self.cxone.login_url is None and not self.cxone.tells_its_login:
            raise ValueError(
                "cxone needs login_url, such as https://na1.nice-incontact.com/authentication/v1/token/access-key, or "
                "issuer https://cxone.niceincontact.com with tenant_id"
            )
        if self.cxone is not None and len(self.cxone.clients) > 1:
            raise ValueError("cxone wants one access key in clients: a tenant makes one call in 30 s, whoever makes it")
        return self

    @property
    def edge_address(self) -> str:
        """The edge store's URL."""
        return self.edge_url or f"file://{self.data_dir.resolve() / 'edge'}"

    def accounts(self) -> dict[str, VendorAccount]:
        """The configured vendor accounts, by platform."""
        named = {"reportdata": self.reportdata, "genesys": self.genesys, "cxone": self.cxone}
        return {platform: account for platform, account in named.items() if account is not None}

    def required_postgres_url(self) -> str:
        """The PostgreSQL URL.

        Raises:
            SettingsError: it is not set.
        """
        return _required(self.postgres_url, "POSTGRES_URL")

    def required_redis_url(self) -> str:
        """The Redis URL.

        Raises:
            SettingsError: it is not set.
        """
        return _required(self.redis_url, "REDIS_URL")


def _required(url: SecretStr | None, name: str) -> str:
    if url is None:
        raise SettingsError(
            f"CACHE_PIPELINE_{name} is not set: give the server's URL, or start the command through "
            "`cache-pipeline with-servers -- COMMAND`, which starts embedded ones"
        )
    return url.get_secret_value()


def read_settings() -> Settings:
    """The settings of this process.

    Raises:
        SettingsError: naming the variable that is wrong.
    """
    try:
        return Settings()
    except ValidationError as error:
        problems = [
            f"CACHE_PIPELINE_{'__'.join(str(part).upper() for part in problem['loc'])}: {problem['msg']}"
            for problem in error.errors(include_input=False, include_url=False, include_context=False)
        ]
        raise SettingsError("; ".join(problems)) from None
