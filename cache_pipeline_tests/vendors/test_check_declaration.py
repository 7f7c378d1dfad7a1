"""Tests of what an adapter derives from a declaration before anything is sent: its mistakes and its columns."""

from dataclasses import replace
from typing import Any

import pytest

from cache_pipeline.bootstrap.reports import Declarations
from cache_pipeline.query.schema import Column, ColumnKind, Fold
from cache_pipeline.vendors.definitions import METRICS
from cache_pipeline.vendors.genesys.adapter import GenesysAdapter
from cache_pipeline.vendors.genesys.metrics import OBSERVATIONS
from cache_pipeline.vendors.reportdata.adapter import ReportDataAdapter
from cache_pipeline_tests.vendors.workbench import genesys_report, reportdata_report


def _queue_and_media(queue: str, *media: str) -> dict[str, Any]:
    return {
        "predicates": [
            {"dimension": "queueId", "values": [queue]},
            {"dimension": "mediaType", "values": list(media)},
        ]
    }


def _filters(operator: str) -> dict[str, Any]:
    return {"predicates": [{"dimension": "queueId", "operator": operator, "values": ["a"]}]}


def test_correct_declarations_pass() -> None:
    assert list(ReportDataAdapter.check_declaration(reportdata_report(filters=_filters("notIn")))) == []
    assert list(GenesysAdapter.check_declaration(genesys_report(filters=_filters("in"), delivery="sync"))) == []


@pytest.mark.parametrize(
    ("changes", "field", "problem"),
    [
        ({"granularity": "PT2H"}, "granularity", "PT2H has no timeGrouping; use PT15M, PT30M, PT1H, P1D, P1W"),
        ({"delivery": "sync"}, "fetch.delivery", "by job only; remove the field or set async"),
    ],
)
def test_reportdata_mistake_names_field_and_remedy(changes: dict[str, Any], field: str, problem: str) -> None:
    ((found, text),) = ReportDataAdapter.check_declaration(reportdata_report(**changes))
    assert found == field
    assert problem in text


@pytest.mark.parametrize(
    ("changes", "field", "problem"),
    [
        (
            {"query_type": "letters"},
            "query_type",
            "unknown aggregates family 'letters'; expected one of conversations, users",
        ),
        (
            {"query_type": "users", "metrics": ["tTalk"], "group_by": []},
            "metrics",
            "unknown metrics of users tTalk; expected tSystemPresence",
        ),
        ({"query_type": "users", "metrics": ["tSystemPresence"]}, "group_by", "users can only be grouped by userId"),
        (
            {"rows": "segments", "group_by": [], "metrics": ["tTalk"], "tiers": ["history"]},
            "metrics",
            "segments have tSegmentDuration",
        ),
        (
            {"rows": "presence", "group_by": [], "metrics": ["tSystemPresence"], "tiers": ["history"]},
            "query_type",
            "rows of presence belong to users",
        ),
        (
            {"rows": "conversations", "group_by": [], "delivery": "sync", "tiers": ["history"]},
            "fetch.delivery",
            "extracted by job",
        ),
        ({"filters": _filters("notIn")}, "filters", "no operator notIn; list the values to include with operator in"),
        ({"metrics": ["nOffered", "xOffered", "handleTime"]}, "metrics", "xOffered; Genesys metrics start with n"),
        (
            {"metrics": ["nOffered", "oInteracting", "oWaiting"]},
            "metrics",
            "oInteracting, oWaiting; aggregates of conversations have oAudioMessageCount, ",
        ),
        (
            {"metrics": ["oWaiting"]},
            "metrics",
            "declare a live report of query_type queueObservations",
        ),
        (
            {"metrics": ["oServiceTarget"], "volume_metric": "oServiceTarget"},
            "volume_metric",
            "oServiceTarget counts no events",
        ),
        (
            {"query_type": "users", "group_by": [], "metrics": ["tSystemPresence"], "volume_metric": "tSystemPresence"},
            "volume_metric",
            "use a count (n), or a duration (t)",
        ),
        (
            {"query_type": "users", "group_by": [], "metrics": ["oOnQueueUsers"]},
            "metrics",
            "users have no observations",
        ),
        (
            {"query_type": "flows", "group_by": [], "metrics": ["nFlow", "oServiceLevel"]},
            "metrics",
            "oServiceLevel; aggregates of flows have oFlowMilestone.",
        ),
        (
            {"query_type": "actions", "group_by": [], "metrics": ["oAnything"]},
            "metrics",
            "oAnything; aggregates of actions have no observations.",
        ),
    ],
)
def test_genesys_mistake_names_field_and_remedy(changes: dict[str, Any], field: str, problem: str) -> None:
    ((found, text),) = GenesysAdapter.check_declaration(genesys_report(**changes))
    assert found == field
    assert problem in text


@pytest.mark.parametrize(
    ("changes", "field", "problem"),
    [
        (
            {"platform": "cxone", "rows": "segments"},
            "rows",
            "cxone has no rows of 'segments'; expected one of conversations",
        ),
        (
            {"platform": "genesys", "rows": "calls"},
            "rows",
            "genesys has no rows of 'calls'; expected one of conversations, s",
        ),
        ({"platform": "reportdata", "rows": "conversations"}, "rows", "no rows of 'conversations'; remove the field"),
        ({"platform": "genesys", "rows": "presence", "group_by": ["userId"]}, "group_by", "write group_by: []"),
    ],
)
def test_single_rows_keep_to_the_vendors_rules(changes: dict[str, Any], field: str, problem: str) -> None:
    report = genesys_report(**{"group_by": [], "tiers": ["history"], **changes})
    ((found, text),) = Declarations().find_problems(report)
    assert found == field
    assert problem in text


def test_single_rows_are_keyed_as_their_vendor_says() -> None:
    report = genesys_report(rows="presence", group_by=[], tiers=["history"])
    assert Declarations().complete(report).group_by == ("startTime", "userId")


def test_all_mistakes_are_reported_together() -> None:
    fields = [
        field
        for field, _ in ReportDataAdapter.check_declaration(reportdata_report(granularity="PT2H", delivery="sync"))
    ]
    assert fields == ["granularity", "fetch.delivery"]


def test_unknown_platform_error_lists_the_platforms() -> None:
    ((field, problem),) = Declarations().find_problems(reportdata_report(platform="cxtwo"))
    assert field == "platform"
    assert problem == "unknown platform 'cxtwo'; expected one of genesys, reportdata, cxone"


def test_reportdata_columns_are_dimensions_and_integers() -> None:
    columns = ReportDataAdapter.columns(reportdata_report(metrics=["waitMs", "answeredWithinTarget"]))
    assert columns[-1].description == "waitMs: time that contacts waited in a queue, total in milliseconds"
    assert tuple(replace(column, description="") for column in columns) == (
        Column("media_type", ColumnKind.dimension, nullable=True, source="mediaType"),
        Column("queue_id", ColumnKind.dimension, nullable=True, source="queueId"),
        Column("answered_within_target", ColumnKind.integer, source="answeredWithinTarget", fold=Fold.sum),
        Column("wait_ms", ColumnKind.integer, source="waitMs", fold=Fold.sum),
    )


def test_genesys_columns_are_the_statistics_of_each_metric() -> None:
    columns = GenesysAdapter.columns(
        genesys_report(group_by=["queueId"], metrics=["nOffered", "tHandle", "oServiceLevel"])
    )
    assert [(column.name, column.kind, column.nullable) for column in columns] == [
        ("queue_id", ColumnKind.dimension, True),
        ("n_offered", ColumnKind.integer, False),
        ("o_service_level_numerator", ColumnKind.number, False),
        ("o_service_level_denominator", ColumnKind.number, False),
        ("t_handle_count", ColumnKind.integer, False),
        ("t_handle_sum", ColumnKind.number, False),
        ("t_handle_min", ColumnKind.number, True),
        ("t_handle_max", ColumnKind.number, True),
    ]
    assert {column.description for column in columns if column.name.startswith("t_handle_m")} == {
        f"tHandle, {statistic} in milliseconds: {METRICS['tHandle']}" for statistic in ("shortest", "longest")
    }


@pytest.mark.parametrize(
    ("changes", "field", "problem"),
    [
        (
            {"tiers": ["history", "edge"], "edge_columns": ["nOffered", "tTalk"]},
            "publish.edge_columns",
            "unknown tTalk; expected some of queue_id",
        ),
        ({"tiers": ["history"], "edge_columns": ["tTalk"]}, None, None),
    ],
)
def test_publication_that_must_fail_is_refused_when_declared(
    changes: dict[str, object], field: str | None, problem: str | None
) -> None:
    fields = {"group_by": ["queueId"], "metrics": ["nOffered"], **changes}
    found = list(Declarations().find_problems(genesys_report(**fields)))
    assert [name for name, _ in found] == ([field] if field else [])
    assert all(problem in text for _, text in found if problem)


def test_declaration_order_does_not_change_columns() -> None:
    one = genesys_report(metrics=["tHandle", "nOffered"], group_by=["queueId", "mediaType"])
    other = genesys_report(metrics=["nOffered", "tHandle"], group_by=["mediaType", "queueId"])
    assert GenesysAdapter.columns(one) == GenesysAdapter.columns(other)


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"predicates": [{"dimension": "queueId", "operator": "exists"}]}, ""),
        ({"predicates": [{"dimension": "queueId", "values": ["a", None]}]}, ""),
        ({"type": "or", "clauses": [_queue_and_media("a", "voice"), _queue_and_media("b", "chat")]}, ""),
        ({"type": "or", "clauses": [_queue_and_media("a", "voice", "chat"), _queue_and_media("b", "chat")]}, "three"),
    ],
)
def test_genesys_accepts_filters_of_two_levels(filters: dict[str, Any], message: str) -> None:
    problems = list(GenesysAdapter.check_declaration(genesys_report(filters=filters, delivery="sync")))
    assert [field for field, _ in problems] == (["filters"] if message else [])
    assert all(message in problem for _, problem in problems)


def test_reportdata_accepts_one_level_of_values() -> None:
    for filters in (
        {"type": "or", "clauses": [_queue_and_media("a", "voice"), _queue_and_media("b", "chat")]},
        {"predicates": [{"dimension": "queueId", "operator": "exists"}]},
    ):
        assert [field for field, _ in ReportDataAdapter.check_declaration(reportdata_report(filters=filters))] == [
            "filters"
        ]


@pytest.mark.parametrize(
    ("metric", "statistics"),
    [
        ("oServiceLevel", [("numerator", False, Fold.sum), ("denominator", False, Fold.sum)]),
        ("oMediaCount", [(name, True, Fold.none) for name in ("count", "sum", "min", "max")]),
    ],
)
def test_observation_adds_up_only_if_documented(metric: str, statistics: list[tuple[str, bool, Fold]]) -> None:
    columns = GenesysAdapter.columns(genesys_report(group_by=[], metrics=[metric]))
    stem = {"oServiceLevel": "o_service_level", "oMediaCount": "o_media_count"}[metric]
    assert [(column.name, column.nullable, column.fold) for column in columns] == [
        (f"{stem}_{name}", nullable, fold) for name, nullable, fold in statistics
    ]


def test_service_target_never_adds_up() -> None:
    (column,) = GenesysAdapter.columns(genesys_report(group_by=[], metrics=["oServiceTarget"]))
    assert (column.name, column.kind, column.nullable, column.fold) == (
        *("o_service_target", ColumnKind.number, True, Fold.same),
    )


@pytest.mark.parametrize(("family", "metrics"), OBSERVATIONS.items())
def test_every_known_observation_can_be_declared(family: str, metrics: tuple[str, ...]) -> None:
    group_by = ["mediaType"] if family in ("conversations", "flows") else []
    report = genesys_report(query_type=family, group_by=group_by, metrics=list(metrics))
    assert list(GenesysAdapter.check_declaration(report)) == []
    assert {column.source for column in GenesysAdapter.columns(report)} == {*metrics, *group_by}
    assert len({column.name for column in GenesysAdapter.columns(report)}) == len(GenesysAdapter.columns(report))


@pytest.mark.parametrize("metric", ["nConversations", "nDistinctSuggestions", "nCopilotUsers"])
def test_distinct_counts_do_not_add_up(metric: str) -> None:
    (column,) = GenesysAdapter.columns(genesys_report(group_by=[], metrics=[metric]))
    assert column.fold is Fold.none


@pytest.mark.parametrize(
    ("family", "metric"),
    [
        ("conversations", "nConversations"),
        ("conversations", "oMessageTurn"),
        ("flows", "oFlowMilestone"),
    ],
)
def test_metric_that_cannot_be_folded_needs_the_medium(family: str, metric: str) -> None:
    dimension = "flowId" if family == "flows" else "queueId"
    report = genesys_report(query_type=family, group_by=[dimension], metrics=[metric])
    ((field, problem),) = GenesysAdapter.check_declaration(report)
    assert field == "metrics"
    assert problem.startswith(metric)
    assert "add mediaType to group_by" in problem
    by_medium = genesys_report(query_type=family, group_by=[dimension, "mediaType"], metrics=[metric])
    assert list(GenesysAdapter.check_declaration(by_medium)) == []
    voice = {"type": "and", "predicates": [{"dimension": "mediaType", "operator": "in", "values": ["voice"]}]}
    of_one = genesys_report(query_type=family, group_by=[dimension], metrics=[metric], filters=voice)
    assert list(GenesysAdapter.check_declaration(of_one)) == []


def test_foldable_metrics_need_no_medium() -> None:
    report = genesys_report(group_by=["userId"], metrics=["nOffered", "tHandle", "oServiceLevel", "oServiceTarget"])
    assert list(GenesysAdapter.check_declaration(report)) == []
