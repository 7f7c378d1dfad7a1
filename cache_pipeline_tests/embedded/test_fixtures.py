"""The guarantees that the shared fixtures give other tests."""

from urllib.parse import urlsplit

import psycopg
import pytest
import redis


@pytest.mark.parametrize("round_number", [1, 2])
def test_each_test_gets_empty_databases(
    postgres_database: str, postgres_url: str, redis_database: str, round_number: int
) -> None:
    assert urlsplit(postgres_database).path != urlsplit(postgres_url).path
    with psycopg.connect(postgres_database) as connection:
        connection.execute(f"CREATE TABLE left_over AS SELECT {round_number} AS round_number")
    with redis.Redis.from_url(redis_database) as client:
        assert client.dbsize() == 0
        client.set("left_over", round_number)
