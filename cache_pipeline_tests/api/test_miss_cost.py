"""What a miss costs the stores before its 202: at most four SQL statements and two reads of Redis."""

from cache_pipeline.settings import ApiSettings
from cache_pipeline_tests.api.conftest import DAY, REPORT
from cache_pipeline_tests.api.counted_servers import counted_postgres, watched_redis
from cache_pipeline_tests.api.test_auth import create_key

#: Counters that each process adds up in the background once a second.
_BACKGROUND = ("cache_pipeline:demand", "cache_pipeline:metrics", "cache_pipeline:rate_limit")
_READS = ("GET ", "MGET ", "HGETALL ", "EVAL ", "EVALSHA ", "EXISTS ", "TTL ")


def _reads(commands):
    return [
        each for each in commands if each.upper().startswith(_READS) and not any(name in each for name in _BACKGROUND)
    ]


async def test_miss_needs_four_statements_and_two_reads_of_redis(open_api, postgres_database, redis_database):
    # A second report whose rows could be rolled up, so that its coverage is read too.
    finer = REPORT.model_copy(update={"name": "finer", "group_by": ("queueId", "mediaType")})
    with counted_postgres(postgres_database) as postgres:
        async with open_api(REPORT, finer, postgres=postgres.url, api=ApiSettings(auth="keys")) as api:
            headers = await create_key(api)
            # The first request of a process loads scripts and opens connections.
            warm = await api.http.get("/v1/reports/queue_hour?interval=2026-01-03/2026-01-04", headers=headers)
            assert warm.status_code == 202
            api.query_service.api_keys._valid.clear()
            postgres.statements.clear()
            async with watched_redis(redis_database) as commands:
                missed = await api.http.get(f"/v1/reports/queue_hour?interval={DAY}", headers=headers)
                statements = list(postgres.statements)
            assert missed.status_code == 202
            assert missed.json()["position"] == 2
            assert len(statements) <= 4, statements
            assert len(_reads(commands)) <= 2, commands


async def test_hit_from_history_needs_three_statements(open_api, postgres_database, redis_database):
    with counted_postgres(postgres_database) as postgres:
        async with open_api(postgres=postgres.url) as api:
            api.start_worker()
            url = f"/v1/reports/queue_hour?interval={DAY}"
            assert (await api.http.get(url, headers={"Prefer": "wait=20"})).status_code == 200
            await api.stop_workers()
            await api.redis.flushdb()
            postgres.statements.clear()
            async with watched_redis(redis_database) as commands:
                assert (await api.http.get(url)).status_code == 200
                statements = list(postgres.statements)
            assert len(statements) <= 3, statements
            assert len(_reads(commands)) == 1, commands
