"""Tests of `cache-pipeline forget`: traces are planted in every store, and afterwards every byte is searched."""

import gzip
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import dagster as dg
import httpx
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis
from psycopg.types.json import Jsonb

from cache_pipeline.bootstrap.database import migrate_history
from cache_pipeline.bootstrap.reports import load_reports, report_columns
from cache_pipeline.cli.main import main
from cache_pipeline.query.filters import Filter
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.person import Person
from cache_pipeline.query.schema import rows_to_table, to_arrow_schema
from cache_pipeline.query.series import Series
from cache_pipeline.rows.rows import Rows
from cache_pipeline.settings import Settings, read_settings
from cache_pipeline.simulator import SimulatorSettings, running_simulator
from cache_pipeline.storage.coverage import FetchTime
from cache_pipeline.storage.personal_files import LogFiles
from cache_pipeline.storage.ports.history import Replacement
from cache_pipeline.storage.postgres.history import open_history
from cache_pipeline.storage.published import EdgeTier
from cache_pipeline_tests.query.declared import FIELDS, grouped

USER, PHONE = "7f9b3c1e-5c52-4d7b-9d4b-0c5d6c1f2a11", "+49301234567"
#: Other people, whose ids contain those above or begin alike.
OTHER_USER, OTHER_PHONE = f"{USER}-2", f"{PHONE}8"
DAY = datetime(2026, 1, 5, tzinfo=UTC)
HOUR = timedelta(hours=1)
INTERVAL = Interval(DAY, DAY + 12 * HOUR)
COMMON = {**FIELDS, "time_zone": "UTC", "metrics": ["offered"], "time_travel": "P90D"}
DECLARED = {
    "agents": {**COMMON, "group_by": ["ani", "queueId", "userId"], "tiers": ["hot", "history"]},
    "queues": {**COMMON, "group_by": ["queueId"]},
}
FILTER = {"predicates": [{"dimension": "userId", "operator": "in", "values": [USER]}]}


@dataclass
class World:
    """A deployment with traces of two people in every store."""

    settings: Settings
    folder: Path
    redis: redis.Redis

    @property
    def url(self) -> str:
        return self.settings.required_postgres_url()

    def sql(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(statement, values or None)  # pyright: ignore[reportArgumentType]
            return cursor.fetchall() if cursor.description else []

    def total(self, report: str, people: str = "true") -> int:
        [[total]] = self.sql(f"SELECT coalesce(sum(offered), 0) FROM reporting.{report} WHERE {people}")
        return int(total)


@pytest.fixture
def world(
    no_settings: None,
    postgres_database: str,
    redis_database: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[World]:
    del no_settings
    (tmp_path / "reports").mkdir()
    for name, fields in DECLARED.items():
        (tmp_path / "reports" / f"{name}.yaml").write_text(json.dumps(grouped({**fields, "name": name})))
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "dagster.yaml").write_text(
        "storage: {postgres: {postgres_url: {env: CACHE_PIPELINE_POSTGRES_URL}}}\ntelemetry: {enabled: false}\n"
    )
    for name, value in {
        "POSTGRES_URL": postgres_database,
        "REDIS_URL": redis_database,
        "REPORTS_DIR": str(tmp_path / "reports"),
        "DATA_DIR": str(tmp_path / "data"),
    }.items():
        monkeypatch.setenv(f"CACHE_PIPELINE_{name}", value)
    with dg.DagsterInstance.from_config(str(tmp_path / "home")), redis.Redis.from_url(redis_database) as client:
        planted = World(read_settings(), tmp_path, client)
        _plant(planted)
        yield planted


def _rows(report: Any, people: list[tuple[str | None, str | None]], offered: int) -> pa.Table:
    def row(hour: int, phone: str | None, user: str | None) -> dict[str, Any]:
        values = {"ani": phone, "queue_id": "q1", "user_id": user, "offered": offered}
        bounds = {"interval_start": DAY + hour * HOUR, "interval_end": DAY + (hour + 1) * HOUR}
        return {**bounds, **{column.name: values[column.name] for column in report_columns(report)}}

    rows = [row(hour, *person) for hour in range(12) for person in people]
    return rows_to_table(rows, to_arrow_schema(report_columns(report)))


def _store(world: World, report: Any, rows: pa.Table, fetched_at: datetime, series: Series | None = None) -> None:
    known = IntervalSet([INTERVAL])
    with open_history(world.url) as history:
        history.replace(
            Replacement(
                series or Series(report),
                known,
                IntervalSet(),
                Rows.from_table(rows),
                INTERVAL.end,
                (FetchTime(known, fetched_at),),
            )
        )


def _plant(world: World) -> None:
    reports = load_reports(world.settings)
    migrate_history(world.settings, reports)
    agents, queues = reports["agents"], reports["queues"]
    people = [(PHONE, USER), (OTHER_PHONE, OTHER_USER), (f"tel:{PHONE}", None), (None, USER)]
    for fetch in range(2):
        _store(world, agents, _rows(agents, people, 1 + fetch), DAY + timedelta(days=1, hours=fetch))
    _store(world, queues, _rows(queues, [(None, None)], 40), DAY + timedelta(days=1))
    earlier = agents.model_copy(update={"filters": Filter.parse(FILTER)})
    _store(world, earlier, _rows(agents, [(None, USER)], 1), DAY + timedelta(days=1), Series(earlier))
    for number, identifier in enumerate((USER, PHONE)):
        for again in range(5):
            world.sql(
                "INSERT INTO cache_pipeline_state.entity_name VALUES ('default', 'reportdata/main', 'users', %s, %s, NULL, %s)",
                *(identifier, DAY + again * HOUR, "Agent"),
            )
            world.sql(
                "INSERT INTO cache_pipeline_state.job (id, key, tenant, report, request, lane, requested_by, state, problem)"
                " VALUES (gen_random_uuid(), %s, 'default', 'agents', %s, 'interactive', '{}', 'failed', %s)",
                *(f"key {number} {again}", Jsonb({"filters": FILTER, "of": identifier}), Jsonb({"detail": identifier})),
            )
            world.sql(
                "INSERT INTO cache_pipeline_state.submitted_query (id, tenant, caller, path, body, expires_at, answer)"
                " VALUES (gen_random_uuid(), 'default', 'key', '/', %s, now() + interval '1 day', %s)",
                *(Jsonb({"of": identifier if again else "nobody"}), zlib.compress(f'["{identifier}"]'.encode())),
            )
            world.sql(
                "INSERT INTO cache_pipeline_state.dead_letter (body, reason) VALUES (%s, 'unknown')",
                f"not a job: {identifier}".encode(),
            )
            world.sql(
                "INSERT INTO cache_pipeline_state.upstream_query (series, report, interval, platform, lane, state, requested_at,"
                " owner, lease_until, fence, ended_at, detail) VALUES ('s', 'agents', tstzrange(now(), NULL), 'reportdata/main',"
                " 'backfill', 'failed', now(), 'host', now(), 1, now(), %s)",
                f"the vendor refused {identifier}: {quote(identifier, safe='')}",
            )
        world.sql(
            "INSERT INTO cache_pipeline_state.ad_hoc_series (name, tenant, declaration, metrics) VALUES (%s, 'default', %s, '{}')",
            *(f"ad_hoc_{number}", Jsonb({"filters": identifier})),
        )
        world.redis.set(f"analytics:queue:{number}:hot", json.dumps({"rows": [[identifier]]}))
        world.redis.set(f"cache_pipeline:idempotency:{identifier}", "job")
        world.redis.hset("cache_pipeline:demand:{default:1}:requests", f'["{identifier}"]', 3)
        world.redis.hset("cache_pipeline:demand:{default:1}:requests", f'["nobody {number}"]', 3)
        world.redis.sadd("cache_pipeline:set", identifier, "nobody")
        world.redis.zadd("cache_pipeline:sorted", {identifier: 1, "nobody": 2})
        world.redis.rpush("cache_pipeline:list", identifier, "nobody")
        world.redis.xadd("cache_pipeline:stream", {"body": identifier})
        _plant_dagster(world, identifier)
        _plant_files(world, identifier, agents)
    _plant_edge(world, queues)
    for report in DECLARED:
        world.sql(
            "INSERT INTO cache_pipeline_state.warehouse_export VALUES ('duckdb:', 'default', %s, now(), now(), 'v', true, 1, now())",
            report,
        )


def _plant_dagster(world: World, identifier: str) -> None:
    for number in range(5):
        event = json.dumps({"user_message": f"first\n{identifier} failed", "url": quote(f'{{"id":"{identifier}"}}')})
        world.sql(
            "INSERT INTO event_logs (run_id, event, timestamp) VALUES (%s, %s, now()::timestamp)",
            f"run-{number}",
            event,
        )
    [[snapshots]] = world.sql("SELECT count(*) FROM snapshots")
    world.sql(
        "INSERT INTO snapshots (snapshot_id, snapshot_body, snapshot_type) VALUES (%s, %s, 'PIPELINE')",
        *(f"snapshot {snapshots}", zlib.compress(json.dumps({"filter": identifier}).encode())),
    )
    world.sql("INSERT INTO kvs (key, value) VALUES (%s, %s)", f"cursor {identifier}", identifier)


def _plant_files(world: World, identifier: str, report: Any) -> None:
    staged = world.folder / "data" / "staged" / "agents" / "query"
    staged.mkdir(parents=True, exist_ok=True)
    pq.write_table(_rows(report, [(PHONE, identifier)], 1), staged / f"{len(list(staged.iterdir()))}.parquet")
    (staged / "killed.1.part").write_bytes(identifier.encode())
    os.utime(staged / "killed.1.part", (1, 1))
    for folder in (world.folder / "data" / "dagster" / "logs", world.folder / "logs"):
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(5):
            with (folder / f"{number}.log").open("a") as file:
                file.write(f'INFO of {identifier}\n{{"audit": "{identifier}", "of": "{OTHER_PHONE} {OTHER_USER}"}}\n')
        with gzip.open(folder / "old.gz", "ab") as file:
            file.write(f"INFO {identifier}\n".encode())


def _plant_edge(world: World, queues: Any) -> None:
    edge = EdgeTier(world.settings.edge_store_url, lambda: DAY + timedelta(days=2))
    by_user = queues.model_copy(update={"group_by": ("ani", "userId")})
    for people in ([(PHONE, USER)], [(PHONE, USER), (None, USER)]):
        edge.publish(by_user, {INTERVAL: _rows(by_user, people, 40)}, None)


# --- Search every byte --------------------------------------------------------------------------------------------------------


def _forms(identifier: str) -> re.Pattern[bytes]:
    forms = {identifier, quote(identifier, safe=""), identifier.encode().hex()}
    alternatives = "|".join(re.escape(form) for form in forms)
    # What continues as another id is another person's.
    return re.compile(f"(?:{alternatives})(?![-0-9])(?!(?:2d|3[0-9]))".encode())


def _search(world: World, identifier: str) -> list[str]:
    """Return every place that names a person: lines of a dump, keys and entries of Redis, and files."""
    pattern = _forms(identifier)
    return [place for place, content in _contents(world) for _ in pattern.findall(content)]


def _contents(world: World) -> Iterator[tuple[str, bytes]]:
    tables = world.sql(
        "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
    )
    with psycopg.connect(world.url) as connection:
        for (table,) in tables:
            with connection.cursor().copy(f"COPY {table} TO STDOUT") as copied:  # pyright: ignore[reportArgumentType]
                for line in copied:
                    yield f"{table}", bytes(line)
                    for packed in re.findall(rb"\\\\x([0-9a-f]+)", bytes(line)):
                        yield f"{table} unpacked", _unpacked(bytes.fromhex(packed.decode()))
    for key in world.redis.keys("*"):  # pyright: ignore[reportGeneralTypeIssues]
        yield f"redis {key!r}", key
        yield f"redis {key!r}", repr(_value(world.redis, key)).encode()
    for path in world.folder.rglob("*"):
        if path.is_file():
            yield str(path), path.name.encode() + path.read_bytes()
            if path.suffix == ".parquet":
                yield str(path), repr(pq.read_table(io.BytesIO(path.read_bytes())).to_pylist()).encode()
            if path.suffix == ".gz":
                yield str(path), gzip.decompress(path.read_bytes())


def _unpacked(body: bytes) -> bytes:
    try:
        return zlib.decompress(body)
    except zlib.error:
        return b""


def _value(client: Any, key: bytes) -> Any:
    readers: dict[bytes, Callable[[], Any]] = {
        b"string": lambda: client.get(key),
        b"hash": lambda: client.hgetall(key),
        b"set": lambda: client.smembers(key),
        b"zset": lambda: client.zrange(key, 0, -1),
        b"list": lambda: client.lrange(key, 0, -1),
        b"stream": lambda: client.xrange(key),
    }
    return readers[client.type(key)]()


def _forget(world: World, capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """Run the command, which must succeed, and return the receipt."""
    code, receipt = _run_forget(world, capsys, *arguments)
    assert code == 0, receipt
    return receipt


def _run_forget(world: World, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[Any, dict[str, Any]]:
    command = ["cache-pipeline", "forget", *arguments, "--logs", str(world.folder / "logs"), "--format", "json"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as ended:
            main()
    return ended.value.code, json.loads(capsys.readouterr().out)


# --- Tests --------------------------------------------------------------------------------------------------------------------


def test_nothing_names_the_people_afterwards(world: World, capsys: pytest.CaptureFixture[str]):
    planted = len(_search(world, USER)) + len(_search(world, PHONE))
    assert planted >= 200
    others = [len(_search(world, each)) for each in (OTHER_USER, OTHER_PHONE)]
    queues = world.total("queues")
    receipts = [_forget(world, capsys, each) for each in (USER, PHONE)]
    for identifier in (USER, PHONE):
        assert _search(world, identifier) == []
    assert [len(_search(world, each)) for each in (OTHER_USER, OTHER_PHONE)] == others
    assert (world.total("queues"), world.total("agents")) == (queues, 12 * 2)
    stores = {place["store"] for receipt in receipts for place in receipt["places"]}
    assert stores == {"PostgreSQL", "Redis", "edge", "files"}
    places = {place["place"]: place for place in receipts[0]["places"]}
    assert places["history.agents"]["removed"] == 12 * 2
    assert places["cache_pipeline_state.coverage"]["removed"] == 1
    assert places["history_versions.agents"]["removed"] == 12 * 2
    assert places["history.agents"]["note"] == "warehouses still have the rows: run cache-pipeline export"
    assert world.sql("SELECT report FROM cache_pipeline_state.warehouse_export") == [("queues",)]
    assert receipts[0]["removedByTime"]
    assert all(receipt["complete"] and USER not in json.dumps(receipt) for receipt in receipts)
    edge = EdgeTier(world.settings.edge_store_url, lambda: DAY + timedelta(days=2))
    assert sum(edge.read(load_reports(world.settings)["queues"], INTERVAL)["offered"].to_pylist()) == queues


def test_pseudonyms_keep_every_total(world: World, capsys: pytest.CaptureFixture[str]):
    before = world.total("agents"), world.total("queues"), world.total("agents", f"user_id = '{USER}'")
    receipt = _forget(world, capsys, USER, "--pseudonymise")
    assert _search(world, USER) == []
    pseudonym = receipt["pseudonym"]
    after = world.total("agents"), world.total("queues"), world.total("agents", f"user_id = '{pseudonym}'")
    assert after == before
    assert world.sql("SELECT * FROM cache_pipeline_state.forget_salt") == []
    [[earlier]] = world.sql("SELECT count(*) FROM history_versions.agents WHERE user_id = %s", pseudonym)
    assert earlier == 24


def test_unknown_person_gives_an_empty_receipt(world: World, capsys: pytest.CaptureFixture[str]):
    before = [content for place, content in _contents(world) if not place.endswith(".part")]
    receipt = _forget(world, capsys, "nobody-at-all")
    assert (receipt["places"], receipt["removedByTime"], receipt["complete"]) == ([], [], True)
    assert [content for _, content in _contents(world)] == before
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["cache-pipeline", "forget", "nobody-at-all", "--format", "table"])
        with pytest.raises(SystemExit):
            main()
    assert capsys.readouterr().out == "Nothing stored names this person.\n"


def test_declared_filter_is_left_to_the_operator(world: World, capsys: pytest.CaptureFixture[str]):
    path = world.folder / "reports" / "agents.yaml"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"filters": FILTER}))
    code, receipt = _run_forget(world, capsys, USER)
    assert (code, receipt["complete"]) == (1, False)
    assert any("the filter of agents names the person" in each["note"] for each in receipt["places"])
    path.write_text(json.dumps(grouped({**DECLARED["agents"], "name": "agents"})))
    assert _forget(world, capsys, USER)["complete"]
    assert _search(world, USER) == []


def test_killed_command_is_finished_by_the_next(world: World, capsys: pytest.CaptureFixture[str]):
    with psycopg.connect(world.url) as connection:
        connection.execute("LOCK TABLE event_logs")
        process = subprocess.Popen(
            [sys.executable, "-c", "from cache_pipeline.cli.main import main; main()", "forget", "-", "--pseudonymise"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        assert process.stdin
        process.stdin.write(USER.encode())
        process.stdin.close()
        deadline = time.monotonic() + 30
        while not world.sql("SELECT 1 FROM pg_locks WHERE NOT granted AND relation IS NOT NULL"):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
        connection.rollback()
    [[half]] = world.sql("SELECT DISTINCT user_id FROM history.agents WHERE user_id LIKE 'forgotten-%'")
    deadline = time.monotonic() + 30
    while world.sql("SELECT 1 FROM pg_locks WHERE locktype = 'advisory'"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    receipt = _forget(world, capsys, USER, "--pseudonymise")
    assert receipt["pseudonym"] == half
    assert _search(world, USER) == []


def _follow(world: World, capsys: pytest.CaptureFixture[str]) -> tuple[Any, str, str]:
    """Run `forget --from-vendor`; return its exit code and both outputs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            sys,
            "argv",
            ["cache-pipeline", "forget", "--from-vendor", "--logs", str(world.folder / "logs"), "--format", "json"],
        )
        with pytest.raises(SystemExit) as ended:
            main()
    output = capsys.readouterr()
    return ended.value.code, output.out, output.err


def _use_vendor(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    client = {"client_id": "demo-client", "client_secret": "demo-secret"}
    account = {"base_url": url, "login_url": f"{url}/oauth/token", "clients": [client]}
    monkeypatch.setenv("CACHE_PIPELINE_ACCOUNTS__GENESYS__MAIN", json.dumps(account))


def test_vendor_deletions_are_followed_once(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    others = [len(_search(world, each)) for each in (OTHER_USER, OTHER_PHONE)]
    with running_simulator(SimulatorSettings()) as url, httpx.Client(base_url=url) as vendor:
        _use_vendor(monkeypatch, url)

        def add(**request: Any) -> str:
            return vendor.post("/simulator/gdpr-requests", json=request).raise_for_status().json()["id"]

        for _ in range(101):
            add(requestType="GDPR_EXPORT", subject={"userId": OTHER_USER})
        add(status="DELETING", subject={"phoneNumbers": [OTHER_PHONE]})
        request = add(subject={"name": "q1 x", "userId": USER, "phoneNumbers": [PHONE, "112"]})
        code, printed, _ = _follow(world, capsys)
        (document,) = [json.loads(line) for line in printed.splitlines()]
        assert (code, document["account"], document["request"]) == (0, "genesys/main", request)
        assert (document["complete"], document["skipped"], len(document["receipts"])) == (True, 1, 2)
        assert USER not in printed
        assert PHONE not in printed
        for identifier in (USER, PHONE):
            assert _search(world, identifier) == []
        assert [len(_search(world, each)) for each in (OTHER_USER, OTHER_PHONE)] == others
        assert _follow(world, capsys)[:2] == (0, "")
    assert world.sql("SELECT account, request FROM cache_pipeline_state.forgotten_request") == [
        ("genesys/main", request)
    ]


def test_vendor_that_forbids_its_requests_is_one_line(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    settings = SimulatorSettings(client_permissions={"demo-client": frozenset({"routing:queue:view"})})
    with running_simulator(settings) as url:
        _use_vendor(monkeypatch, url)
        code, _, message = _follow(world, capsys)
    assert code == 2
    assert "gdpr:request:view" in message
    assert message.count("\n") == 1


def test_lines_of_a_running_writer_stay(tmp_path: Path):
    """A process appends to its log while the id in it is replaced, again and again."""
    path, count = tmp_path / "dagster.log", 3000

    def write() -> None:
        with path.open("ab", buffering=0) as log:
            for number in range(count):
                log.write(f"{number} {USER if number % 3 == 0 else 'nobody'}\n".encode())

    path.touch()
    writer = threading.Thread(target=write)
    writer.start()
    while writer.is_alive():
        list(LogFiles([tmp_path]).forget(Person(USER)))
    writer.join()
    (erasure,) = LogFiles([tmp_path]).forget(Person(USER))
    lines = path.read_text().splitlines()
    assert [int(line.split()[0]) for line in lines] == list(range(count))
    assert {line.split()[1] for line in lines} == {"nobody", "forgotten".ljust(len(USER), "-")}
    assert erasure.left == 0


def test_an_id_or_the_vendor_is_given(world: World, capsys: pytest.CaptureFixture[str]):
    for arguments in ([], [USER, "--from-vendor"]):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["cache-pipeline", "forget", *arguments])
            with pytest.raises(SystemExit) as ended:
                main()
        assert ended.value.code == 2
        assert "give an id or address, or --from-vendor" in capsys.readouterr().err


def test_log_that_is_rotated_while_it_is_read_is_replaced_and_its_successor_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, find_in = tmp_path / "app.log", Person.find_in
    log.write_text(f"0 {USER}\n")

    def find_after_rotation(person: Person, content: bytes) -> list[tuple[int, bytes]]:
        if not (tmp_path / "app.log.1").exists():
            log.rename(tmp_path / "app.log.1")
            log.write_text(f"a line of its successor, then {USER}\n")
        return find_in(person, content)

    monkeypatch.setattr(Person, "find_in", find_after_rotation)
    list(LogFiles([tmp_path]).forget(Person(USER)))
    list(LogFiles([tmp_path]).forget(Person(USER)))
    forgotten = "forgotten".ljust(len(USER), "-")
    assert log.read_text() == f"a line of its successor, then {forgotten}\n"
    assert (tmp_path / "app.log.1").read_text() == f"0 {forgotten}\n"
