"""What callers without a key may ask for is made once for all of them."""

import asyncio

from cache_pipeline.api import schemas
from cache_pipeline.api.monitoring.shared_results import SharedResults
from cache_pipeline.api.routes import operations
from cache_pipeline.storage.coalescer import Coalescer


async def test_crowd_gets_a_few_results_a_second():
    now, made = 100.0, 0

    async def make():
        nonlocal made
        made += 1
        await asyncio.sleep(0)
        return made

    shared = SharedResults(lambda: now)
    async with Coalescer() as coalescer:
        for _ in range(3):
            assert len(set(await asyncio.gather(*(shared.get("each", coalescer, make) for _ in range(50))))) == 1
        assert made == 3
        assert [await shared.get("each", coalescer, make) for _ in range(100)] == [4] * 100
        assert await shared.get("other", coalescer, make) == 5
        now += 1.1
        assert await shared.get("each", coalescer, make) == 6


async def test_flood_of_metrics_and_readiness_is_shared(open_api, monkeypatch):
    made = dict.fromkeys(("render_metrics", "check_dependencies"), 0)

    def count_calls(name):
        real = getattr(operations, name)

        def counted(*arguments, **options):
            made[name] += 1
            return real(*arguments, **options)

        monkeypatch.setattr(operations, name, counted)

    for name in made:
        count_calls(name)
    async with open_api() as api:
        for path in ("/metrics", "/readyz"):
            answers = await asyncio.gather(*(api.http.get(path) for _ in range(60)))
            assert {answer.status_code for answer in answers} == {200}
    assert 1 <= made["render_metrics"] < 30
    assert 1 <= made["check_dependencies"] < 30


async def test_description_of_the_api_is_made_once(open_api, monkeypatch):
    made = 0
    real = schemas.ProblemView.model_json_schema

    def counted(*arguments, **options):
        nonlocal made
        made += 1
        return real(*arguments, **options)

    monkeypatch.setattr(schemas.ProblemView, "model_json_schema", counted)
    async with open_api() as api:
        first, second = [await api.http.get("/openapi.json") for _ in range(2)]
        assert first.json()["components"]["schemas"]["ProblemView"]
        assert first.content == second.content
    assert made == 1
