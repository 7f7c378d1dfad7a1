"""Test that plants secrets in a real deployment and searches for them wherever anything is written."""

import base64
import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import boto3
import httpx
import psycopg
import pytest
import redis
from moto.server import ThreadedMotoServer

from cache_pipeline.embedded import embedded_servers
from cache_pipeline.simulator import SimulatorSettings, running_simulator
from cache_pipeline.simulator.oauth import TokenIssuer
from cache_pipeline_tests.security.places import find_leaks, in_files, in_redis, in_tables
from cache_pipeline_tests.storage.redis.valkey_servers import free_port

pytestmark = [pytest.mark.timeout(600), pytest.mark.system]

REPOSITORY = Path(__file__).parents[2]
CLIENTS = {"planted-1": "oauth-secret-one-7f3a", "planted-2": "oauth-secret-two-91bc"}
WRONG_SECRET = "oauth-secret-wrong-55e0"
S3_KEY, S3_SECRET = "AKIAPLANTED4242", "s3-secret-access-key-0d9e"
BROKER_PASSWORD, WRONG_PASSWORD = "broker-password-c81f", "database-password-wrong-2b77"


class Deployment:
    """Commands in a project folder, each with its output in a file there."""

    def __init__(self, folder, postgres_url, redis_url, vendor, bucket, s3):
        self.folder, self.postgres_url, self.redis_url = folder, postgres_url, redis_url
        (folder / "reports").mkdir(parents=True)
        for name in ("queue_day", "conversation_hour", "queue_now"):
            shutil.copy(REPOSITORY / "reports" / f"{name}.yaml", folder / "reports")
        for name in ("dagster.yaml", "workspace.yaml"):
            shutil.copy(REPOSITORY / name, folder)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("CACHE_PIPELINE_")}
        self.vendor = vendor
        self.environment = {
            **inherited,
            "PYTHONPATH": str(REPOSITORY),
            "DAGSTER_HOME": str(folder),
            "CACHE_PIPELINE_POSTGRES_URL": postgres_url,
            "CACHE_PIPELINE_REDIS_URL": redis_url,
            "CACHE_PIPELINE_EDGE_URL": bucket,
            "CACHE_PIPELINE_ACCOUNTS__REPORTDATA__MAIN": self.account(CLIENTS),
            "CACHE_PIPELINE_ACCOUNTS__GENESYS__MAIN": self.account(CLIENTS),
            "AWS_ENDPOINT": s3,
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": S3_KEY,
            "AWS_SECRET_ACCESS_KEY": S3_SECRET,
        }

    def account(self, clients):
        """Return the setting of a vendor account."""
        named = [{"client_id": name, "client_secret": secret} for name, secret in clients.items()]
        return json.dumps({"base_url": self.vendor, "login_url": f"{self.vendor}/oauth/token", "clients": named})

    def start(self, log, *command, **changes):
        """Start Python with arguments and write its output to a file."""
        with (self.folder / log).open("wb") as output:
            return subprocess.Popen(
                [sys.executable, *command],
                cwd=self.folder,
                env={**self.environment, **changes},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def command_line(self, log, *arguments, **changes):
        """Start ``cache-pipeline``."""
        return self.start(log, "-c", "from cache_pipeline.cli.main import main; main()", *arguments, **changes)

    def backfill(self, log, report, first, end, **changes):
        """Start a backfill, which is a Dagster run."""
        return self.start(log, "-m", "cache_pipeline.orchestration.backfill", report, first, end, **changes)


@pytest.fixture
def tokens(monkeypatch):
    """Record the text of every access token that the simulated vendor issues."""
    issued = []
    login = TokenIssuer.login

    def login_and_record(self, *arguments):
        token = login(self, *arguments)
        issued.append(token.text)
        return token

    monkeypatch.setattr(TokenIssuer, "login", login_and_record)
    return issued


@pytest.fixture
def s3(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", S3_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", S3_SECRET)
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    client = boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1")
    client.create_bucket(Bucket="planted")
    yield client, f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def deployment(tmp_path, s3, tokens):
    settings = SimulatorSettings(
        clients=CLIENTS, token_lifetime_seconds=5, job_seconds_base=0.1, reportdata_max_rows=20
    )
    with (
        embedded_servers(tmp_path / "servers") as servers,
        running_simulator(settings) as vendor,
    ):
        yield Deployment(
            tmp_path / "project", servers.postgres_url, servers.redis_url, vendor, "s3://planted/edge", s3[1]
        )


def with_password(url, password):
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{parts.username or ''}:{password}@{parts.hostname}:{parts.port}"))


def in_bucket(client):
    for item in client.list_objects_v2(Bucket="planted").get("Contents", []):
        yield f"edge object {item['Key']}", client.get_object(Bucket="planted", Key=item["Key"])["Body"].read()


def send_requests(url, key, answers):
    """Send requests that succeed and requests that fail, and append their answers to `answers`."""
    day = (datetime.now(UTC) - timedelta(days=4)).date()
    valid = f"/v1/reports/queue_day?interval={day}/{day + timedelta(days=1)}"
    with httpx.Client(base_url=url, timeout=40) as http:

        def get(path, api_key=key, **headers):
            answer = http.get(path, headers={"X-API-Key": api_key, **headers})
            answers.append((f"answer to {path}", str(answer.headers).encode() + answer.content))
            return answer

        assert get(valid, Prefer="wait=30").status_code == 200
        assert get("/v1/quota").status_code == 200
        assert get("/metrics", api_key="").status_code == 200
        assert get(valid, api_key=f"{key}x").status_code == 401
        assert get("/v1/reports/queue_day?interval=nonsense").status_code == 422
        assert get("/v1/reports/unknown?interval=2026-01-01/2026-01-02").status_code == 404
        return get("/v1/reports/conversation_hour?interval=2026-01-05/2026-01-06", Prefer="wait=30")


def wait_until(condition, seconds=90):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_planted_secrets_are_written_nowhere(deployment, tokens, s3, tmp_path):
    today = datetime.now(UTC).date()
    first, end = str(today - timedelta(days=3)), str(today - timedelta(days=1))
    port = free_port()
    unreachable = f"redis://:{WRONG_PASSWORD}@127.0.0.1:{free_port()}/0"
    broker = f"amqp://guest:{BROKER_PASSWORD}@127.0.0.1:{free_port()}"
    wrong = with_password(deployment.postgres_url, WRONG_PASSWORD)
    answers = []

    created = deployment.command_line("keys-create.out", "keys", "create", "a dashboard")
    assert created.wait() == 0
    key_file = deployment.folder / "keys-create.out"
    key = key_file.read_text().strip()
    key_file.unlink()  # the only output that may contain the key

    refused = deployment.account({"planted-1": WRONG_SECRET})
    # Run one after the other: the first creates Dagster's tables.
    backfills = [deployment.backfill("backfill.log", "queue_day", first, end)]
    servers = []
    try:
        codes = [backfills[0].wait(240)]
        backfills.append(
            deployment.backfill(
                "backfill-refused.log", "conversation_hour", first, end, CACHE_PIPELINE_ACCOUNTS__GENESYS__MAIN=refused
            )
        )
        codes.append(backfills[1].wait(240))
        assert codes == [0, 1], [(deployment.folder / "backfill.log").read_text()[-2000:], codes]
        servers = [
            deployment.command_line("api.log", "api", "--port", str(port)),
            deployment.command_line("worker.log", "worker"),
        ]
        for log, arguments, changes in (
            ("keys-list.log", ["keys", "list"], {}),
            ("broker-down.log", ["doctor", "--json"], {"CACHE_PIPELINE_JOBS__QUEUE_URL": broker}),
            ("wrong-password.log", ["query", "queue_day", f"{first}/{end}"], {"CACHE_PIPELINE_POSTGRES_URL": wrong}),
            ("unreadable.log", ["migrate"], {"CACHE_PIPELINE_POSTGRES_URL": f"postgresql://u:{WRONG_PASSWORD} x@[h/p"}),
            ("redis-down.log", ["quota"], {"CACHE_PIPELINE_REDIS_URL": unreachable}),
            ("redis-unreadable.log", ["quota"], {"CACHE_PIPELINE_REDIS_URL": f"redis://:{WRONG_PASSWORD}@h:port/0"}),
            ("settings.log", ["reports"], {"CACHE_PIPELINE_ACCOUNTS__GENESYS__MAIN": f"{refused}}}"}),
        ):
            deployment.command_line(log, *arguments, **changes).wait(120)
            assert (deployment.folder / log).read_bytes(), log

        def is_up():
            with contextlib.suppress(httpx.TransportError):
                return httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200

        wait_until(is_up)
        send_requests(f"http://127.0.0.1:{port}", key, answers)
        # The worker's next query fails, however often it is retried.
        httpx.post(f"{deployment.vendor}/simulator/faults", json={"fail_jobs": 100, "revoke_tokens": 3})
        failed = httpx.get(
            f"http://127.0.0.1:{port}/v1/reports/queue_day?interval=2026-02-02/2026-02-03",
            headers={"X-API-Key": key, "Prefer": "wait=30"},
            timeout=40,
        )
        assert failed.status_code == 502
        answers.append(("answer of a failed job", failed.content))
        # A killed worker leaves behind whatever it had written.
        servers[1].kill()
    finally:
        for process in [*servers, *backfills]:
            process.terminate()
        for process in [*servers, *backfills]:
            process.wait(60)

    secrets = {
        **{f"secret of {name}": secret for name, secret in CLIENTS.items()},
        **{
            f"login of {name}": base64.b64encode(f"{name}:{secret}".encode()).decode()
            for name, secret in CLIENTS.items()
        },
        **{f"token {number}": token for number, token in enumerate(tokens)},
        "wrong client secret": WRONG_SECRET,
        "S3 key": S3_KEY,
        "S3 secret": S3_SECRET,
        "broker password": BROKER_PASSWORD,
        "wrong password": WRONG_PASSWORD,
        "API key": key.split("_", 2)[2],
        "PostgreSQL password": urlsplit(deployment.postgres_url).password,
        "Redis password": urlsplit(deployment.redis_url).password,
    }
    assert len(tokens) > 3

    def all_places():
        return chain(
            in_files(deployment.folder),
            ((str(log), log.read_bytes()) for log in (tmp_path / "servers").glob("*.log")),
            in_tables(deployment.postgres_url),
            in_redis(deployment.redis_url),
            in_bucket(s3[0]),
            answers,
        )

    assert find_leaks(secrets, all_places()) == []
    # The search itself works: a leak planted in each kind of place is found.
    with psycopg.connect(deployment.postgres_url) as connection:
        connection.execute("CREATE TABLE public.leak AS SELECT %s::bytea AS raw", [S3_SECRET.encode()])
    with redis.Redis.from_url(deployment.redis_url) as client:
        client.hset("leak", "field", tokens[-1])
    (deployment.folder / "leak.log").write_text(f"postgresql://u:{WRONG_PASSWORD}@h")
    s3[0].put_object(Bucket="planted", Key="leak", Body=CLIENTS["planted-1"].encode())
    leaks = find_leaks(secrets, all_places())
    assert [leak.split(" in ")[0] for leak in leaks] == sorted(
        ["S3 secret", "secret of planted-1", f"token {len(tokens) - 1}", "wrong password"]
    )
    assert any("event_logs" in where for where, _ in in_tables(deployment.postgres_url))
