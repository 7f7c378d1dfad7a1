"""``cache-pipeline doctor`` on vendors, the broker and the edge store, with each failure provoked."""

import asyncio
import http.server
import json
import socket
import ssl
import sys
import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cache_pipeline.bootstrap.accounts import open_quotas
from cache_pipeline.cli.main import main
from cache_pipeline.doctor import published_store, runner
from cache_pipeline.query.lane import Lane
from cache_pipeline.settings import read_settings
from cache_pipeline.simulator import SimulatorSettings, running_simulator
from cache_pipeline.storage.published.manifest import Manifest
from cache_pipeline.storage.published.object_store import EdgeStore
from cache_pipeline_tests.cli.conftest import SECRET

AGGREGATE = "analytics:conversationAggregate:view"
REPORT = """
name: calls
description: Offered by queue
platform: genesys
query_type: conversations
granularity: PT1H
group_by: [queueId]
metrics: [nOffered]
partition: day
start: 2026-01-01
"""

LIVE_REPORT = """
name: now
description: Waiting by queue, now
platform: genesys
query_type: queueObservations
group_by: [queueId]
metrics: [oWaiting]
"""


def _account(url: str, **more: str | bool) -> str:
    return json.dumps({"base_url": url, "clients": [{"client_id": "one", "client_secret": SECRET}], **more})


def _vendor(**changes):
    return running_simulator(SimulatorSettings.model_validate({"clients": {"one": SECRET}, **changes}))


@pytest.fixture
def deployment(servers, monkeypatch, tmp_path):
    """Configure servers of this test's own, one report and a folder as edge; the test adds the vendor."""
    reports = tmp_path / "reports"
    reports.mkdir()
    (reports / "calls.yaml").write_text(REPORT)
    monkeypatch.setenv("CACHE_PIPELINE_REPORTS_DIR", str(reports))
    monkeypatch.setenv("CACHE_PIPELINE_DATA_DIR", str(tmp_path / "data"))
    for name in ("REPORTDATA", "CXONE", "GENESYS"):
        monkeypatch.delenv(f"CACHE_PIPELINE_ACCOUNTS__{name}__MAIN", raising=False)
    return monkeypatch


def test_working_deployment_passes_every_check(deployment, doctor, capsys):
    deployment.setattr(sys, "argv", ["cache-pipeline", "migrate"])
    with _vendor() as url:
        deployment.setenv("CACHE_PIPELINE_ACCOUNTS__GENESYS__MAIN", _account(url))
        main()
        capsys.readouterr()
        code, found = doctor()
    assert code == 0
    assert {each["status"] for each in found.values()} == {"ok"}
    assert found["login of one (genesys/main)"]["detail"] == "logged in; the token is valid for 86,400 s"
    assert AGGREGATE in found["permissions of one (genesys/main)"]["detail"]
    assert {"quota of one (genesys/main)", "job queue", "edge store"} <= found.keys()


def test_wrong_secret_and_unreachable_vendor_have_different_remedies(deployment, doctor):
    with _vendor(clients={"one": "another-secret-value"}) as url:
        deployment.setenv("CACHE_PIPELINE_ACCOUNTS__GENESYS__MAIN", _account(url))
        code, found = doctor()
    login = found["login of one (genesys/main)"]
    assert code == 1
    assert "login refused" in login["detail"]
    assert "client_secret in CACHE_PIPELINE_ACCOUNTS__GENESYS__MAIN" in login["remedy"]
    deployment.setenv("CACHE_PIPELINE_ACCOUNTS__GENESYS__MAIN", _account("http://127.0.0.1:9"))
    code, found = doctor()
    login = found["login of one (genesys/main)"]
    assert code == 1
    assert "cannot reach 127.0.0.1" in login["detail"]
    assert "firewall" in login["remedy"]


def test_untrusted_certificate_is_named_as_the_cause(deployment, doctor, tmp_path):
    with _https(tmp_path) as port:
        deployment.setenv("CACHE_PIPELINE_ACCOUNTS__GENESYS__MAIN", _account(f"https://127.0.0.1:{port}"))
        code, found = doctor()
    assert code == 1
    assert "SSL_CERT_FILE" in found["login of one (genesys/main)"]["remedy"]


def test_remote_address_without_tls_fails_even_if_allowed(deployment, doctor):
    deployment.setenv(
        "CACHE_PIPELINE_ACCOUNTS__GENESYS__MAIN", _account("http://genesys.invalid", allow_insecure_http=True)
    )
    code, found = doctor()
    assert code == 1
    assert found["address of genesys/main"]["remedy"] == "use an https:// address"


def test_missing_permission_names_its_reports(deployment, doctor):
    with _vendor(client_permissions={"one": ["other:thing:view"]}) as url:
        deployment.setenv("CACHE_PIPELINE_ACCOUNTS__GENESYS__MAIN", _account(url))
        code, found = doctor()
    result = found["permissions of one (genesys/main)"]
    assert code == 1
    assert result["detail"] == f"{AGGREGATE} is missing: calls"
    assert f"a role with {AGGREGATE}" in result["remedy"]


@pytest.mark.parametrize(
    ("permissions", "missing"),
    [
        ([AGGREGATE, "routing:queue:view"], "analytics:queueObservation:view"),
        ([AGGREGATE, "analytics:queueObservation:view"], "routing:queue:view"),
        ([AGGREGATE, "analytics:queueObservation:view", "routing:queue:view"], None),
    ],
)
def test_permissions_of_a_live_report_are_checked(deployment, doctor, tmp_path, permissions, missing):
    (tmp_path / "reports" / "now.yaml").write_text(LIVE_REPORT)
    with _vendor(client_permissions={"one": permissions}) as url:
        deployment.setenv("CACHE_PIPELINE_ACCOUNTS__GENESYS__MAIN", _account(url))
        _, found = doctor()
    result = found["permissions of one (genesys/main)"]
    if missing is None:
        assert (result["status"], result["detail"]) == ("ok", "analytics:queueObservation:view: now")
    else:
        assert result["detail"] == f"{missing} is missing: now"
        assert f"a role with {missing}" in result["remedy"]


def test_paused_client_is_a_warning(deployment, doctor):
    # The client is paused, so its permissions cannot be checked.
    deployment.setattr(runner, "_CHECK_TIMEOUT_SECONDS", 3.0)
    with _vendor() as url:
        deployment.setenv("CACHE_PIPELINE_ACCOUNTS__GENESYS__MAIN", _account(url))
        asyncio.run(_refused())
        _, found = doctor()
    result = found["quota of one (genesys/main)"]
    assert result["status"] == "warning"
    assert result["detail"].startswith("paused for")


async def _refused() -> None:
    async with open_quotas(read_settings()) as quotas:
        _, quota = quotas["genesys/main"]
        grant = await quota.acquire(Lane.interactive)
        await quota.settle(grant, remaining=None, retry_after=60, rejected=True, status=429)


@pytest.fixture
def resolving(monkeypatch):
    """Resolve names below localhost to this machine, as most systems do."""
    resolve = socket.getaddrinfo

    def getaddrinfo(host, *arguments, **more):
        ours = host in (b"api-na1.localhost", "api-na1.localhost")
        return resolve("127.0.0.1" if ours else host, *arguments, **more)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.fixture
def extraction(deployment, tmp_path, resolving):
    """Configure a tenant that is discovered through its issuer, and its report; yield the simulator's address."""
    report = REPORT.replace("genesys", "cxone").replace("[nOffered]", "[nOffered, tTalk]")
    (tmp_path / "reports" / "calls.yaml").write_text(report)
    with _vendor() as url:
        account = {"issuer": url, "login_url": f"{url}/authentication/v1/token/access-key"}
        account["clients"] = [{"client_id": "one", "client_secret": SECRET}]
        deployment.setenv("CACHE_PIPELINE_ACCOUNTS__CXONE__MAIN", json.dumps(account))
        yield url


def _extraction_calls(url: str) -> int:
    calls = httpx.get(f"{url}/simulator/counters").json()["calls"]
    return sum(call["count"] for call in calls if "/data-extraction/" in call["call"])


def test_cxone_tenant_is_discovered_and_called_once(extraction, doctor):
    _, found = doctor()
    assert found["address of cxone/main"]["detail"].startswith("http://api-na1.localhost:")
    assert found["login of one (cxone/main)"]["status"] == "ok"
    result = found["extraction by one (cxone/main)"]
    assert result["status"] == "ok"
    assert result["detail"].startswith(
        "0 jobs listed; not checked, because it would cost a job: the permission to extract"
    )
    assert _extraction_calls(extraction) == 1
    _, found = doctor()
    result = found["extraction by one (cxone/main)"]
    assert (result["status"], result["detail"]) == (
        *("warning", "not checked: the tenant's one call in 30 s was just made"),
    )
    assert _extraction_calls(extraction) == 1


def test_refused_extraction_has_both_remedies(extraction, doctor):
    key = {"accessKeyId": "one", "accessKeySecret": SECRET}
    with httpx.Client(base_url=extraction) as another:
        token = another.post("/authentication/v1/token/access-key", json=key).json()["access_token"]
        another.get("/data-extraction/v1/jobs", headers={"Authorization": f"Bearer {token}"}).raise_for_status()
    _, found = doctor()
    result = found["extraction by one (cxone/main)"]
    assert result["status"] == "warning"
    assert "refused with 403" in result["detail"]
    assert "half a minute" in result["remedy"]
    assert "Extract Interaction Metadata" in result["remedy"]


def test_unknown_tenant_names_its_settings(deployment, doctor, extraction):
    account = {
        "issuer": extraction,
        "tenant_id": "nobody",
        "login_url": f"{extraction}/authentication/v1/token/access-key",
    }
    account["clients"] = [{"client_id": "one", "client_secret": SECRET}]
    deployment.setenv("CACHE_PIPELINE_ACCOUNTS__CXONE__MAIN", json.dumps(account))
    code, found = doctor()
    assert code == 1
    address = found["address of cxone/main"]
    assert "did not name the address of the API" in address["detail"]
    assert (
        address["remedy"]
        == "check how CACHE_PIPELINE_ACCOUNTS__CXONE__MAIN names the issuer and the tenant, or set base_url"
    )


def test_wrong_access_key_is_named_as_the_cause(deployment, doctor, extraction):
    deployment.setenv(
        "CACHE_PIPELINE_ACCOUNTS__CXONE__MAIN",
        json.dumps(
            {
                "base_url": extraction,
                "login_url": f"{extraction}/authentication/v1/token/access-key",
                "clients": [{"client_id": "nobody", "client_secret": SECRET}],
            }
        ),
    )
    code, found = doctor()
    assert code == 1
    assert "an enabled access key's id and secret" in found["login of nobody (cxone/main)"]["remedy"]
    assert found["extraction by nobody (cxone/main)"]["detail"] == "not checked: the login was refused"
    assert _extraction_calls(extraction) == 0


@pytest.mark.parametrize("url", ["amqp://guest:planted-secret-value@127.0.0.1:9/", "redis://127.0.0.1:9/0"])
def test_unreachable_broker_is_named_without_its_password(deployment, doctor, url):
    deployment.setenv("CACHE_PIPELINE_JOBS__QUEUE_URL", url)
    code, found = doctor()
    assert code == 1
    assert found["job queue"]["status"] == "failed"
    assert "CACHE_PIPELINE_JOBS__QUEUE_URL" in found["job queue"]["remedy"]


def test_unwritable_edge_store_fails(deployment, doctor):
    deployment.setenv("CACHE_PIPELINE_EDGE_URL", "file:///proc/version/edge")
    code, found = doctor()
    assert code == 1
    assert found["edge store"]["status"] == "failed"
    assert "CACHE_PIPELINE_EDGE_URL" in found["edge store"]["remedy"] + found["edge store"]["detail"]


def test_edge_check_leaves_no_objects(deployment, doctor, tmp_path):
    _, found = doctor()
    assert found["edge store"]["status"] == "ok"
    assert not [path for path in (tmp_path / "data").rglob("*.json") if path.is_file()]


class _Careless(EdgeStore):
    """A store that ignores conditions, as some gateways to S3 do."""

    def create(self, path: str, body: bytes) -> bool:
        self.put(path, body)
        return True


def test_store_without_conditional_writes_fails(monkeypatch, tmp_path, servers):
    monkeypatch.setattr(published_store, "EdgeStore", _Careless)
    monkeypatch.setenv("CACHE_PIPELINE_EDGE_URL", f"file://{tmp_path}")
    (result,) = asyncio.run(published_store.check_store(read_settings()))
    assert result.status == "failed"
    assert "conditional writes" in result.remedy


def test_wrongly_served_public_url_is_reported(deployment, doctor, tmp_path):
    """The store has a manifest; the public URL serves none, or another type and age."""
    folder = tmp_path / "data" / "edge" / "v1" / "default"
    with _folder_over_http(tmp_path) as url:
        deployment.setenv("CACHE_PIPELINE_EDGE_PUBLIC_URL", f"{url}/nothing")
        _, found = doctor()
        assert found["edge readers"]["detail"] == "nothing is published yet"
        _publish_nothing(folder)
        code, found = doctor()
        assert code == 1
        assert "origin" in found["edge readers"]["remedy"]
        deployment.setenv("CACHE_PIPELINE_EDGE_PUBLIC_URL", f"{url}/data/edge/v1/default")
        _, found = doctor()
    assert found["edge readers"]["status"] == "warning"
    assert "max-age=60" in found["edge readers"]["remedy"]


def _publish_nothing(folder: Path) -> None:
    manifest = Manifest(generated_at=datetime.now(UTC), datasets={})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_text(manifest.model_dump_json())


async def test_hanging_check_times_out(monkeypatch):
    monkeypatch.setattr(runner, "_CHECK_TIMEOUT_SECONDS", 0.05)
    (result,) = await runner.run_check("thing", "restart it", lambda: asyncio.sleep(60, []))
    assert (result.status, result.remedy) == ("failed", "restart it")


@contextmanager
def _folder_over_http(folder: Path):
    handler = partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def _https(folder: Path):
    """Serve HTTPS with a self-signed certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "nobody knows me")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = folder / "server.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    pem.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Quiet) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.handle_error = lambda *_: None
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()
