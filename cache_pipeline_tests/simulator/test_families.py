"""The families of aggregates whose figures are made up: their words are read as strictly, and their figures fit together."""

from collections import Counter

import pytest
from pydantic import SecretStr

from cache_pipeline.simulator import SimulatorSettings
from cache_pipeline.simulator.genesys_families import OTHER_FAMILIES
from cache_pipeline.simulator.genesys_query import CONVERSATIONS, FLOWS, Family
from cache_pipeline.simulator.organisation import GENERATED_DIMENSIONS
from cache_pipeline_tests.simulator.vendor import CLIENT, DAY, SECRET, Json, Vendor, open_vendor

SETTINGS = SimulatorSettings(conversations_per_working_day=400)
BOTS = "/api/v2/analytics/bots/aggregates"


def _asked(vendor: Vendor, family: str, **changes: object) -> list[Json]:
    body = {"interval": DAY, "granularity": "PT1H", **changes}
    answer = vendor.post(f"/api/v2/analytics/{family}/aggregates/query", body)
    assert answer.status_code == 200, answer.text
    return answer.json()["results"]


def _totals(results: list[Json]) -> Counter[tuple[str, str]]:
    found = Counter[tuple[str, str]]()
    for result in results:
        for bucket in result["data"]:
            for entry in bucket["metrics"]:
                for figure in ("count", "sum", "numerator", "denominator"):
                    found[entry["metric"], figure] += entry["stats"].get(figure, 0)
    return found


@pytest.mark.parametrize("family", OTHER_FAMILIES, ids=lambda family: family.name)
def test_a_family_groups_by_each_of_its_dimensions_and_figures_add_up_over_groups(
    shared_vendor: Vendor, family: Family
) -> None:
    metrics = sorted(family.metrics)
    whole = _totals(_asked(shared_vendor, family.name, metrics=metrics))
    assert {metric for metric, _ in whole} == set(metrics)
    known = [
        name
        for name in ("queueId", "mediaType", "userId", "divisionId", *family.generated_dimensions)
        if name in family.dimensions
    ]
    for dimension in known:
        parts = _asked(shared_vendor, family.name, metrics=metrics, groupBy=[dimension])
        assert len([part for part in parts if dimension in part["group"]]) > 1, dimension
        assert _totals(parts) == whole, dimension


def test_no_dimension_is_made_up_that_calls_have_or_that_no_family_knows() -> None:
    assert not GENERATED_DIMENSIONS.keys() & (CONVERSATIONS.dimensions | FLOWS.dimensions)
    assert set(GENERATED_DIMENSIONS) == {name for family in OTHER_FAMILIES for name in family.generated_dimensions}


def test_the_same_seed_makes_up_the_same_figures_and_another_seed_others() -> None:
    def told(seed: int) -> list[Json]:
        with open_vendor(SETTINGS.model_copy(update={"seed": seed})) as vendor:
            return _asked(vendor, "bots", metrics=["nBotSessions", "tBotSession"], groupBy=["botId"])

    assert told(1) == told(1)
    assert told(1) != told(2)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"metrics": ["nOffered"]}, "Value [nOffered] is not valid for field type [metrics]"),
        ({"groupBy": ["queueId"]}, "Value [queueId] is not valid for field type [groupBy]"),
        ({"filter": {"type": "and", "predicates": [{"dimension": "queueId", "value": "x"}]}}, "queueId"),
        ({"granularity": "hourly"}, "granularity"),
    ],
)
def test_words_of_another_family_are_a_400(shared_vendor: Vendor, changes: Json, says: str) -> None:
    answer = shared_vendor.post(f"{BOTS}/query", {"interval": DAY, "metrics": ["nBotSessions"], **changes})
    assert answer.status_code == 400
    assert says in answer.json()["message"]


def test_a_filter_on_a_made_up_dimension_keeps_its_groups_alone(shared_vendor: Vendor) -> None:
    whole = _asked(shared_vendor, "bots", metrics=["nBotSessions"], groupBy=["botId", "botIntent"])
    bot = whole[0]["group"]["botId"]
    only = {"type": "and", "predicates": [{"dimension": "botId", "value": bot}]}
    kept = _asked(shared_vendor, "bots", metrics=["nBotSessions"], groupBy=["botId", "botIntent"], filter=only)
    assert kept == [result for result in whole if result["group"]["botId"] == bot] != whole


def test_any_of_a_familys_permissions_opens_it_and_without_one_all_are_named() -> None:
    action = {"interval": DAY, "metrics": ["tTotalExecution"]}
    for permission, status in (("bridge:actions:view", 200), ("analytics:botAggregate:view", 403)):
        settings = SimulatorSettings(
            clients={CLIENT: SecretStr(SECRET)}, client_permissions={CLIENT: frozenset({permission})}
        )
        with open_vendor(settings) as vendor:
            answer = vendor.post("/api/v2/analytics/actions/aggregates/query", action)
            assert answer.status_code == status
    assert "integrations:action:view, bridge:actions:view" in answer.json()["message"]


def test_a_family_that_the_vendor_does_not_have_is_404(shared_vendor: Vendor) -> None:
    assert shared_vendor.post("/api/v2/analytics/letters/aggregates/query", {"interval": DAY}).status_code == 404
