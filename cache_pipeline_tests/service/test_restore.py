"""A deployment that is restored from its backups, or upgraded, resumes without asking the vendor again."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from alembic import command
from pydantic import SecretStr

from cache_pipeline.bootstrap.database import migrate_history
from cache_pipeline.bootstrap.services import open_service
from cache_pipeline.query.interval import Interval
from cache_pipeline.service.report_service import ReportService
from cache_pipeline.service.republish import republish
from cache_pipeline.storage.postgres import migrate as migrations
from cache_pipeline.storage.published import EdgeTier
from cache_pipeline_tests.storage.conftest import database, url_of
from cache_pipeline_tests.storage.postgres.dump import copy_database
from cache_pipeline_tests.world import REPORT, OpenWorld, World, open_world

__all__ = ["open_world"]

pytestmark = pytest.mark.system

DAY = Interval.parse("2026-01-03T00:00:00Z/P1D")
NEXT = Interval.parse("2026-01-04T00:00:00Z/P1D")


async def rows(world: World, service: ReportService | None = None, interval: Interval = DAY) -> list[list[object]]:
    answer = await (service or world.service).answer(REPORT, interval)
    return sorted(json.loads(answer.body)["rows"])


async def test_restored_dump_answers_without_the_vendor(open_world: OpenWorld, postgres_url: str, tmp_path: Path):
    """With an empty Redis, and a copy of the edge store. What the backup lacks is fetched, and nothing else."""
    async with open_world() as world:
        truth = await world.truth(REPORT, DAY)
        assert await rows(world) == truth
        submits = await world.submits()
        series, columns = world.service.series(REPORT), world.service.columns(REPORT)
        stored, copied = tmp_path / "edge", tmp_path / "copied"
        published = republish(world.service.history, EdgeTier(f"file://{stored}", world.clock), series, columns)
        assert published.uploaded
        shutil.copytree(stored, copied)
        with database(postgres_url) as name:
            url = url_of(postgres_url, name)
            copy_database(world.settings.required_postgres_url(), url, tmp_path)
            await world.redis.flushall()
            settings = world.settings.model_copy(update={"postgres_url": SecretStr(url)})
            migrate_history(settings, {REPORT.name: REPORT})
            async with open_service(settings) as opened:
                restored = replace(opened, clock=world.clock)
                assert await rows(world, restored) == truth
                assert await world.submits() == submits
                again = republish(restored.history, EdgeTier(f"file://{copied}", world.clock), series, columns)
                assert (again.files, again.uploaded) == (published.files, 0)
                assert await rows(world, restored, NEXT) == await world.truth(REPORT, NEXT)
                assert await world.submits() > submits


async def test_database_of_the_first_revision_is_upgraded_with_its_rows(open_world: OpenWorld):
    async with open_world() as world:
        truth = await world.truth(REPORT, DAY)
        assert await rows(world) == truth
        submits = await world.submits()
        url = world.settings.required_postgres_url()
        with migrations._transaction(url) as connection:
            command.downgrade(migrations._config(connection), "0001_baseline")
        with psycopg.connect(url) as connection:
            row = connection.execute("SELECT version_num FROM cache_pipeline_state.alembic_version").fetchone()
            assert row == ("0001_baseline",)
        migrate_history(world.settings, {REPORT.name: REPORT})
        await world.redis.flushall()
        assert await rows(world) == truth
        assert await world.submits() == submits
