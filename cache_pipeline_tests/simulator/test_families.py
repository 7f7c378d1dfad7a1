"""Tests of the families with generated figures: names are checked strictly, and figures are consistent."""

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


def _results(vendor: Vendor, family: str, **changes: object) -> list[Json]:
    body = {"interval": DAY, "granularity": "PT1H", **changes}
    answer = vendor.post(f"/api/v2/analytics/{family}/aggregates/query", body)
    assert answer.status_code == 200, answer.text
    return answer.json()["results"]


def _totals(results: list[Json]) -> Counter[tuple[str, str]]:
    totals = Counter[tuple[str, str]]()
    for result in results:
        for bucket in result["data"]:
            for entry in bucket["metrics"]:
                for figure in ("count", "sum", "numerator", "denominator"):
                    totals[entry["metric"], figure] += entry["stats"].get(figure, 0)
    return totals


@pytest.mark.parametrize("family", OTHER_FAMILIES, ids=lambda family: family.name)
def test_figures_add_up_over_the_groups_of_each_dimension(shared_vendor: Vendor, family: Family) -> None:
    metrics = sorted(family.metrics)
    ungrouped = _totals(_results(shared_vendor, family.name, metrics=metrics))
    assert {metric for metric, _ in ungrouped} == set(metrics)
    known = [
        name
        for name in ("queueId", "mediaType", "userId", "divisionId", *family.generated_dimensions)
        if name in family.dimensions
    ]
    for dimension in known:
        parts = _results(shared_vendor, family.name, metrics=metrics, groupBy=[dimension])
        assert len([part for part in parts if dimension in part["group"]]) > 1, dimension
        assert _totals(parts) == ungrouped, dimension


def test_generated_dimensions_belong_to_some_family_and_not_calls() -> None:
    assert not GENERATED_DIMENSIONS.keys() & (CONVERSATIONS.dimensions | FLOWS.dimensions)
    assert set(GENERATED_DIMENSIONS) == {name for family in OTHER_FAMILIES for name in family.generated_dimensions}


@pytest.mark.parametrize("family", ["evaluations", "surveys"])
def test_figures_of_a_day_grow_for_weeks_unless_asked_by_event_time(family: str) -> None:
    metrics = {"evaluations": ["nEvaluations"], "surveys": ["nSurveyResponses"]}[family]

    def counts(vendor: Vendor) -> tuple[int, int]:
        by_call = _totals(_results(vendor, family, metrics=metrics))
        by_event = _totals(_results(vendor, family, metrics=metrics, alternateTimeDimension="eventTime"))
        return by_call[metrics[0], "count"], by_event[metrics[0], "count"]

    with open_vendor(
        SETTINGS.model_copy(update={"conversations_per_working_day": 4000, "token_lifetime_seconds": 10_000_000.0})
    ) as vendor:
        seen = [counts(vendor)]
        for _ in range(4):
            vendor.clock.seconds += 7 * 86_400
            seen.append(counts(vendor))
    of_call, of_event = zip(*seen, strict=True)
    assert list(of_call) == sorted(set(of_call)), "it grows every week"
    assert of_call[0] < of_call[-1] / 2
    assert set(of_event) == {of_event[0]} != {0}


def test_figures_depend_on_the_seed() -> None:
    def results(seed: int) -> list[Json]:
        with open_vendor(SETTINGS.model_copy(update={"seed": seed})) as vendor:
            return _results(vendor, "bots", metrics=["nBotSessions", "tBotSession"], groupBy=["botId"])

    assert results(1) == results(1)
    assert results(1) != results(2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metrics": ["nOffered"]}, "Value [nOffered] is not valid for field type [metrics]"),
        ({"groupBy": ["queueId"]}, "Value [queueId] is not valid for field type [groupBy]"),
        ({"filter": {"type": "and", "predicates": [{"dimension": "queueId", "value": "x"}]}}, "queueId"),
        ({"granularity": "hourly"}, "granularity"),
    ],
)
def test_names_of_another_family_are_a_400(shared_vendor: Vendor, changes: Json, message: str) -> None:
    answer = shared_vendor.post(f"{BOTS}/query", {"interval": DAY, "metrics": ["nBotSessions"], **changes})
    assert answer.status_code == 400
    assert message in answer.json()["message"]


def test_filter_on_a_generated_dimension_selects_its_groups(shared_vendor: Vendor) -> None:
    unfiltered = _results(shared_vendor, "bots", metrics=["nBotSessions"], groupBy=["botId", "botIntent"])
    bot = unfiltered[0]["group"]["botId"]
    filter_ = {"type": "and", "predicates": [{"dimension": "botId", "value": bot}]}
    filtered = _results(shared_vendor, "bots", metrics=["nBotSessions"], groupBy=["botId", "botIntent"], filter=filter_)
    assert filtered == [result for result in unfiltered if result["group"]["botId"] == bot] != unfiltered


def test_any_permission_of_a_family_is_sufficient() -> None:
    action = {"interval": DAY, "metrics": ["tTotalExecution"]}
    for permission, status in (("bridge:actions:view", 200), ("analytics:botAggregate:view", 403)):
        settings = SimulatorSettings(
            clients={CLIENT: SecretStr(SECRET)}, client_permissions={CLIENT: frozenset({permission})}
        )
        with open_vendor(settings) as vendor:
            answer = vendor.post("/api/v2/analytics/actions/aggregates/query", action)
            assert answer.status_code == status
    assert "integrations:action:view, bridge:actions:view" in answer.json()["message"]


def test_unknown_family_is_404(shared_vendor: Vendor) -> None:
    assert shared_vendor.post("/api/v2/analytics/letters/aggregates/query", {"interval": DAY}).status_code == 404
