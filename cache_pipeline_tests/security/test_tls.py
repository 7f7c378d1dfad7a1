"""Test that a server with an untrusted certificate gets neither a login nor a request."""

import asyncio
import ssl
from datetime import UTC, datetime, timedelta

import pytest
import redis.asyncio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import SecretStr

from cache_pipeline.errors import UpstreamUnreachable
from cache_pipeline.upstream.client import create_upstream_client
from cache_pipeline.upstream.config import OAuthClient, RetryPolicy, UpstreamConfig
from cache_pipeline.upstream.quota import QuotaPolicy


def write_self_signed_certificate(folder):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / "server.pem"
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    path.write_bytes(key.private_bytes(*form) + certificate.public_bytes(serialization.Encoding.PEM))
    return path


async def test_untrusted_vendor_gets_no_secret(tmp_path, redis_database, monkeypatch):
    # Environment variables that disable verification in other clients have no effect here.
    monkeypatch.setenv("PYTHONHTTPSVERIFY", "0")
    monkeypatch.setenv("CURL_CA_BUNDLE", "")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "")
    received = bytearray()

    async def listen(reader, writer):
        received.extend(await reader.read(1000))
        writer.close()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(write_self_signed_certificate(tmp_path))
    server = await asyncio.start_server(listen, "127.0.0.1", 0, ssl=context)
    url = f"https://localhost:{server.sockets[0].getsockname()[1]}"
    config = UpstreamConfig(
        account="reportdata",
        base_url=url,
        login_url=f"{url}/oauth/token",
        clients=(OAuthClient(client_id="one", client_secret=SecretStr("a-secret-9c41")),),
        policy=QuotaPolicy(limit=60, window_seconds=60),
        retries=RetryPolicy(max_attempts=1),
    )
    try:
        async with (
            redis.asyncio.Redis.from_url(redis_database) as shared,
            create_upstream_client(config, shared) as client,
        ):
            with pytest.raises(UpstreamUnreachable, match=r"(?i)certificate"):
                await client.get("/api/v2/anything")
    finally:
        server.close()
        await server.wait_closed()
    assert not received
