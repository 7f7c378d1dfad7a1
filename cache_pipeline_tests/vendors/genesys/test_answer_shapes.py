"""Tests of answer shapes seen at real Genesys organisations, with fictional values."""

import json
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from cache_pipeline.errors import CachePipelineError
from cache_pipeline.query.interval import Interval, format_instant
from cache_pipeline.query.lane import Lane
from cache_pipeline.query.report import Report
from cache_pipeline.vendors.genesys.adapter import GenesysAdapter
from cache_pipeline_tests.vendors.workbench import genesys_report, merge_pages, mock_client, read_pages

MORNING = "2026-03-02T08:00:00Z/2026-03-02T10:00:00Z"
DAY = "2026-03-02T00:00:00Z/2026-03-03T00:00:00Z"
LATE = "2026-03-14T00:00:00.000Z"

Json = dict[str, Any]


@dataclass(frozen=True)
class Shape:
    """One shape of answer.

    Attributes:
        pages: The pages of the result; the first is the answer of a synchronous query.
        report: The declaration's changes.
        rows: The rows in any order, each with the columns that matter.
        refused: A text of the error instead.
        sent: Fields of the request; None for a field that must be absent.
        until: The watermark of the last page.
        status: The status of the job.
        http_status: The status of the response to the submit.
    """

    pages: list[Json]
    report: Json = field(default_factory=dict[str, Any])
    rows: list[Json] | None = None
    refused: str | None = None
    sent: Json = field(default_factory=dict[str, Any])
    until: str | None = None
    status: Json = field(default_factory=lambda: {"state": "FULFILLED"})
    http_status: int = 200


def _bucket(metrics: Json, hour: int = 8, zone: str = "Z") -> Json:
    start, end = (f"2026-03-02T{each:02}:00:00.000{zone}" for each in (hour, hour + 1))
    entries = [
        {
            "metric": name.partition("/")[0],
            **({"qualifier": name.partition("/")[2]} if "/" in name else {}),
            "stats": stats,
        }
        for name, stats in metrics.items()
    ]
    return {"interval": f"{start}/{end}", "metrics": entries}


def _group(group: Json | None, *buckets: Json) -> Json:
    return {"data": list(buckets)} if group is None else {"group": group, "data": list(buckets)}


def _day_of(metrics: Json) -> Json:
    return _bucket(metrics) | {"interval": "2026-03-02T00:00:00.000Z/2026-03-03T00:00:00.000Z"}


def _results(*groups: Json, **more: Any) -> Json:
    return {"results": list(groups), **more}


def _count(number: int) -> Json:
    return {"count": number}


def _timer(count: int, total: float, least: float, most: float) -> Json:
    return {"count": count, "sum": total, "min": least, "max": most}


VOICE_Q1, CHAT_Q1, VOICE_Q2 = (
    {"mediaType": "voice", "queueId": "q1"},
    {"mediaType": "chat", "queueId": "q1"},
    {"mediaType": "voice", "queueId": "q2"},
)
BY_QUEUE: Json = {"group_by": ["queueId"], "delivery": "sync"}
BY_MEDIUM: Json = {"group_by": ["queueId", "mediaType"], "delivery": "sync"}
BY_JOB: Json = {"delivery": "async"}

AGGREGATES: dict[str, Shape] = {
    "queue split by medium": Shape(
        [
            _results(
                _group(
                    VOICE_Q1,
                    _bucket({"nOffered": _count(7), "tHandle": _timer(5, 900, 100, 300)}),
                    _bucket({"nOffered": _count(2)}, 9),
                ),
                _group(CHAT_Q1, _bucket({"nOffered": _count(4), "tHandle": _timer(2, 700, 50, 650)})),
                _group(VOICE_Q2, _bucket({"nOffered": _count(1)})),
            )
        ],
        BY_QUEUE,
        [
            {
                "queue_id": "q1",
                "n_offered": 11,
                "t_handle_count": 7,
                "t_handle_sum": 1600.0,
                "t_handle_min": 50.0,
                "t_handle_max": 650.0,
            },
            {"queue_id": "q1", "n_offered": 2, "t_handle_count": 0, "t_handle_min": None},
            {"queue_id": "q2", "n_offered": 1},
        ],
    ),
    "total split by medium": Shape(
        [
            _results(
                _group(
                    {"mediaType": "voice"},
                    _bucket(
                        {
                            "nOffered": _count(9),
                            "oServiceLevel": {"ratio": 0.75, "numerator": 6, "denominator": 8, "target": 0.8},
                        }
                    ),
                ),
                _group(
                    {"mediaType": "callback"},
                    _bucket(
                        {
                            "nOffered": _count(3),
                            "oServiceLevel": {"ratio": 0.0, "numerator": 0, "denominator": 3, "target": 0.8},
                        }
                    ),
                ),
                _group({"mediaType": "cobrowse"}, _bucket({"nOffered": _count(1)})),
            )
        ],
        {"group_by": [], "delivery": "sync", "metrics": ["nOffered", "oServiceLevel"]},
        [{"n_offered": 13, "o_service_level_numerator": 6.0, "o_service_level_denominator": 11.0}],
    ),
    "agent split by medium": Shape(
        [
            _results(
                _group({"mediaType": "voice", "userId": "u1"}, _bucket({"tHandle": _timer(2, 500, 200, 300)})),
                _group({"mediaType": "email", "userId": "u1"}, _bucket({"tHandle": _timer(1, 900, 900, 900)})),
            )
        ],
        {"group_by": ["userId"], "delivery": "sync", "metrics": ["tHandle"]},
        [{"user_id": "u1", "t_handle_count": 3, "t_handle_sum": 1400.0, "t_handle_min": 200.0, "t_handle_max": 900.0}],
    ),
    "extra key with one medium": Shape(
        [_results(_group(VOICE_Q1, _bucket({"nOffered": _count(5)})))], BY_QUEUE, [{"queue_id": "q1", "n_offered": 5}]
    ),
    "group repeated on a page": Shape(
        [
            _results(
                _group(VOICE_Q1, _bucket({"nOffered": _count(5)})), _group(VOICE_Q1, _bucket({"nOffered": _count(5)}))
            )
        ],
        BY_QUEUE,
        [{"queue_id": "q1", "n_offered": 5}],
    ),
    "two different figures of one group": Shape(
        [
            _results(
                _group(VOICE_Q1, _bucket({"nOffered": _count(5)})), _group(VOICE_Q1, _bucket({"nOffered": _count(6)}))
            )
        ],
        BY_QUEUE,
        refused="two different records",
    ),
    "service target as current": Shape(
        [
            _results(
                _group(
                    VOICE_Q1,
                    _bucket(
                        {
                            "nOffered": _count(4),
                            "oServiceTarget": {"current": 0.7},
                            "oServiceLevel": {"ratio": 0.5, "numerator": 2, "denominator": 4, "target": 0.7},
                        }
                    ),
                )
            )
        ],
        BY_MEDIUM | {"metrics": ["nOffered", "oServiceTarget", "oServiceLevel"]},
        [{"o_service_target": 0.7, "o_service_level_numerator": 2.0, "n_offered": 4}],
    ),
    "service target as target": Shape(
        [_results(_group(VOICE_Q1, _bucket({"oServiceTarget": {"target": 0.9}})))],
        BY_MEDIUM | {"metrics": ["oServiceTarget"]},
        [{"o_service_target": 0.9}],
    ),
    "group of the target alone": Shape(
        [
            _results(
                _group(CHAT_Q1, _bucket({"oServiceTarget": {"current": 0.7}})),
                _group(VOICE_Q1, _bucket({"nOffered": _count(4)})),
            )
        ],
        BY_MEDIUM | {"metrics": ["nOffered", "oServiceTarget"]},
        [
            {"media_type": "chat", "n_offered": 0, "o_service_target": 0.7},
            {"media_type": "voice", "o_service_target": None},
        ],
    ),
    "timer without minimum": Shape(
        [_results(_group(VOICE_Q1, _bucket({"tTalk": {"count": 2, "sum": 300, "max": 200}})))],
        BY_MEDIUM | {"metrics": ["tTalk"]},
        [{"t_talk_count": 2, "t_talk_sum": 300.0, "t_talk_min": None, "t_talk_max": 200.0}],
    ),
    "service level of zero": Shape(
        [
            _results(
                _group(
                    VOICE_Q1, _bucket({"oServiceLevel": {"ratio": 0, "numerator": 0, "denominator": 5, "target": 0.8}})
                )
            )
        ],
        BY_MEDIUM | {"metrics": ["oServiceLevel"]},
        [{"o_service_level_numerator": 0.0, "o_service_level_denominator": 5.0}],
    ),
    "timers of zero": Shape(
        [
            _results(
                _group(
                    VOICE_Q1,
                    _bucket(
                        {"tDialing": {"count": 3, "sum": 0, "min": 0, "max": 0}, "tTalk": _timer(1, 0.0, 0.0, 0.0)}
                    ),
                )
            )
        ],
        BY_MEDIUM | {"metrics": ["tDialing", "tTalk"]},
        [{"t_dialing_count": 3, "t_dialing_sum": 0.0, "t_talk_min": 0.0}],
    ),
    "message turns": Shape(
        [_results(_group(CHAT_Q1, _bucket({"oMessageTurn": _timer(3, 9, 2, 4)})))],
        BY_MEDIUM | {"metrics": ["oMessageTurn"]},
        [{"o_message_turn_count": 3, "o_message_turn_sum": 9.0, "o_message_turn_max": 4.0}],
    ),
    "handling of a week": Shape(
        [_results(_group(CHAT_Q1, _bucket({"tHandle": _timer(2, 600_000_500, 500, 600_000_000)})))],
        BY_MEDIUM | {"metrics": ["tHandle"]},
        [{"t_handle_max": 600_000_000.0}],
    ),
    "group without a dimension": Shape(
        [
            _results(
                _group({"mediaType": "voice"}, _bucket({"nOffered": _count(2)})),
                _group(VOICE_Q1, _bucket({"nOffered": _count(3)})),
            )
        ],
        BY_MEDIUM,
        [{"queue_id": None, "n_offered": 2}, {"queue_id": "q1", "n_offered": 3}],
    ),
    "empty results": Shape([_results()], BY_MEDIUM, []),
    "no results": Shape([{}], BY_MEDIUM, []),
    "null results": Shape([{"results": None}], BY_MEDIUM, []),
    "groups and buckets out of order": Shape(
        [
            _results(
                _group(VOICE_Q2, _bucket({"nOffered": _count(1)}, 9), _bucket({"nOffered": _count(2)})),
                _group(VOICE_Q1, _bucket({"nOffered": _count(3)})),
            )
        ],
        BY_MEDIUM,
        [{"n_offered": 1}, {"n_offered": 2}, {"n_offered": 3}],
    ),
    "instants with an offset": Shape(
        [_results(_group(VOICE_Q1, _bucket({"nOffered": _count(3)}, 9, "+01:00")))],
        BY_MEDIUM,
        [{"interval_start": "2026-03-02T08:00:00Z", "n_offered": 3}],
    ),
    "distinct count split by medium": Shape(
        [
            _results(
                _group(VOICE_Q1, _bucket({"nConversations": _count(3)})),
                _group(CHAT_Q1, _bucket({"nConversations": _count(3)})),
            )
        ],
        BY_QUEUE | {"metrics": ["nConversations"]},
        refused="add mediaType to group_by",
    ),
    "split by a dimension with several values": Shape(
        [_results(_group({"queueId": "q1", "requestedRoutingSkillId": "s1"}, _bucket({"nOffered": _count(3)})))],
        BY_QUEUE,
        refused="requestedRoutingSkillId",
    ),
    "flow split by medium": Shape(
        [
            _results(
                _group(
                    {"mediaType": "voice", "flowId": "f1"},
                    _bucket({"nFlow": _count(20), "tFlow": _timer(21, 4000, 10, 900)}),
                ),
                _group(
                    {"mediaType": "message", "flowId": "f1"},
                    _bucket({"nFlow": _count(3), "tFlow": _timer(3, 60, 5, 40)}),
                ),
            )
        ],
        {"query_type": "flows", "group_by": ["flowId"], "metrics": ["nFlow", "tFlow"], "delivery": "sync"},
        [{"flow_id": "f1", "n_flow": 23, "t_flow_count": 24, "t_flow_sum": 4060.0, "t_flow_min": 5.0}],
    ),
    "media of a queue on two pages": Shape(
        [
            _results(_group(VOICE_Q1, _bucket({"nOffered": _count(6)})), cursor="next"),
            _results(_group(CHAT_Q1, _bucket({"nOffered": _count(5)}))),
        ],
        BY_JOB | {"group_by": ["queueId"]},
        [{"queue_id": "q1", "n_offered": 11}],
    ),
    "two pages by medium": Shape(
        [
            _results(_group(VOICE_Q1, _bucket({"nOffered": _count(6)})), cursor="next"),
            _results(_group(CHAT_Q1, _bucket({"nOffered": _count(5)}))),
        ],
        BY_JOB,
        [{"media_type": "voice", "n_offered": 6}, {"media_type": "chat", "n_offered": 5}],
    ),
    "null cursor": Shape(
        [_results(_group(VOICE_Q1, _bucket({"nOffered": _count(6)})), cursor=None)], BY_JOB, [{"n_offered": 6}]
    ),
    "evaluations by when they happen": Shape(
        [_results(_group({"queueId": "q1"}, _day_of({"nEvaluations": _count(3)})))],
        BY_QUEUE | {"query_type": "evaluations", "metrics": ["nEvaluations"], "granularity": "P1D"},
        [{"queue_id": "q1", "n_evaluations": 3}],
        sent={"alternateTimeDimension": "eventTime"},
    ),
    "surveys by when they happen": Shape(
        [_results()],
        {
            "query_type": "surveys",
            "metrics": ["nSurveysSent"],
            "group_by": [],
            "granularity": "P1D",
            "delivery": "sync",
        },
        [],
        sent={"alternateTimeDimension": "eventTime"},
    ),
    "conversations by their own time": Shape([_results()], BY_MEDIUM, [], sent={"alternateTimeDimension": None}),
    "no group object": Shape(
        [_results(_group(None, _day_of({"nEvaluations": _count(12)})))],
        {
            "query_type": "evaluations",
            "metrics": ["nEvaluations"],
            "group_by": [],
            "granularity": "P1D",
            "delivery": "sync",
        },
        [{"n_evaluations": 12}],
    ),
    "states of users": Shape(
        [
            _results(
                _group(
                    {"userId": "u1"},
                    _day_of(
                        {"tSystemPresence/ON_QUEUE": {"sum": 5000}, "tAgentRoutingStatus/INTERACTING": {"sum": 3000}}
                    ),
                ),
                systemToOrganizationMappings={"ON_QUEUE": ["p1"]},
            )
        ],
        {
            "query_type": "users",
            "group_by": ["userId"],
            "granularity": "P1D",
            "metrics": ["tSystemPresence", "tAgentRoutingStatus"],
            "delivery": "sync",
        },
        [
            {
                "t_system_presence_on_queue": 5000.0,
                "t_system_presence_meal": 0.0,
                "t_agent_routing_status_interacting": 3000.0,
            }
        ],
    ),
    "the organisation's own presences": Shape(
        [
            _results(
                _group(
                    {"userId": "u1"},
                    _day_of({"tOrganizationPresence/p1": {"sum": 5000}, "tOrganizationPresence/p9": {"sum": 70}}),
                ),
                systemToOrganizationMappings={"MEAL": ["p1", "p2"], "BUSY": ["p3"]},
            )
        ],
        {
            "query_type": "users",
            "group_by": ["userId", "organizationPresenceId", "systemPresence"],
            "granularity": "P1D",
            "metrics": ["tOrganizationPresence"],
            "delivery": "sync",
        },
        [
            {
                "user_id": "u1",
                "organization_presence_id": "p1",
                "system_presence": "MEAL",
                "t_organization_presence": 5000.0,
            },
            {"organization_presence_id": "p9", "system_presence": None, "t_organization_presence": 70.0},
        ],
        sent={"groupBy": ["userId"]},
    ),
    "the organisation's presences beside others": Shape(
        [],
        {
            "query_type": "users",
            "group_by": ["userId"],
            "granularity": "P1D",
            "metrics": ["tSystemPresence", "tOrganizationPresence"],
        },
        refused="tOrganizationPresence has a row for each presence",
    ),
    "state that no list has": Shape(
        [_results(_group({"userId": "u1"}, _day_of({"tSystemPresence/AT_THE_DENTIST": {"sum": 5000}})))],
        {
            "query_type": "users",
            "group_by": ["userId"],
            "granularity": "P1D",
            "metrics": ["tSystemPresence"],
            "delivery": "sync",
        },
        refused="AT_THE_DENTIST",
    ),
}


def _error(code: str, message: str) -> Json:
    return {"message": message, "code": code, "contextId": "c1", "details": [], "errors": []}


JOBS_AND_ERRORS: dict[str, Shape] = {
    "queued job": Shape([], BY_JOB, status={"state": "QUEUED", "submissionDate": LATE}, refused="not done"),
    "fulfilled job": Shape(
        [_results()],
        BY_JOB,
        [],
        status={"state": "FULFILLED", "submissionDate": LATE, "completionDate": LATE, "expirationDate": LATE},
    ),
    "failed job": Shape(
        [],
        BY_JOB,
        status={"state": "FAILED", "errorMessage": "it broke at the vendor"},
        refused="it broke at the vendor",
    ),
    "expired job": Shape([], BY_JOB, status={"state": "EXPIRED"}, refused="EXPIRED"),
    "400 for a value": Shape(
        [_error("invalid.value", "Value [nOferred] is not valid")], BY_MEDIUM, refused="nOferred", http_status=400
    ),
    "400 with parameters": Shape(
        [
            _error("general.bad.request", "Referenced key on 'edgeId' does not exist.")
            | {"messageWithParams": "{x}", "messageParams": {"x": ""}}
        ],
        BY_MEDIUM,
        refused="does not exist",
        http_status=400,
    ),
    "400 for the interval": Shape(
        [_error("bad.request", "does not exceed 7 days.")], BY_MEDIUM, refused="7 days", http_status=400
    ),
    "401": Shape(
        [_error("bad.credentials", "Invalid login credentials.")], BY_MEDIUM, refused="bad.credentials", http_status=401
    ),
    "403 that names the permission": Shape(
        [_error("missing.any.permissions", "You must have at least one of: [analytics:conversationAggregate:view]")],
        BY_MEDIUM,
        refused="analytics:conversationAggregate:view",
        http_status=403,
    ),
    "404 of a route, a code with a blank": Shape(
        [_error("not found", "HTTP 404 Not Found")], BY_MEDIUM, refused="HTTP 404 Not Found", http_status=404
    ),
    "500": Shape(
        [_error("internal.server.error", "an unexpected condition")],
        BY_MEDIUM,
        refused="unexpected condition",
        http_status=500,
    ),
    "502 of a proxy in HTML": Shape(
        [{"html": "<html><h1>502 ERROR</h1></html>"}], BY_MEDIUM, refused="502", http_status=502
    ),
    "504": Shape(
        [_error("request.timeout", "The request timed out.")], BY_MEDIUM, refused="timed out", http_status=504
    ),
}


def _segment(start: str, end: str | None = None, kind: str = "interact", **more: Any) -> Json:
    return {
        "segmentType": kind,
        "segmentStart": f"2026-03-02T{start}Z" if len(start) < 13 else start,
        **({} if end is None else {"segmentEnd": f"2026-03-02T{end}Z" if len(end) < 13 else end}),
        "conference": False,
        **more,
    }


def _session(number: int, *segments: Json, metrics: Json | None = None, **more: Any) -> Json:
    session = {
        "sessionId": f"s{number}",
        "mediaType": "voice",
        "direction": "inbound",
        "segments": list(segments),
        **more,
    }
    if metrics is not None:
        session["metrics"] = [
            {"name": name.strip(), "value": value, "emitDate": LATE} for name, value in metrics.items()
        ]
    return session


def _conversation(identity: str, start: str, end: str | None, *participants: Json, **more: Any) -> Json:
    return {
        "conversationId": identity,
        "conversationStart": f"2026-03-02T{start}Z" if len(start) < 13 else start,
        **({} if end is None else {"conversationEnd": f"2026-03-02T{end}Z" if len(end) < 13 else end}),
        "participants": list(participants),
        **more,
    }


def _details(*conversations: Json, until: str | None = LATE, **more: Any) -> Json:
    return {"conversations": list(conversations), **({} if until is None else {"dataAvailabilityDate": until}), **more}


CALL = _conversation(
    "c1",
    "09:00:00.100",
    "09:05:00.000",
    {
        "participantId": "p1",
        "purpose": "customer",
        "attributes": {**{f"a{number}": "x" for number in range(60)}, "long": "y" * 1024},
        "sessions": [
            _session(
                1,
                _segment("09:00:00.100", "09:00:00.200", "system"),
                _segment(
                    "09:00:00.200", "09:05:00.000", queueId="q1", disconnectType="endpoint", q850ResponseCodes=[16]
                ),
                ani="tel:+15550123",
                dnis="tel:+15550199",
                mediaEndpointStats=[{"codecs": ["audio/opus"], "minMos": 4.0}],
            )
        ],
    },
    {
        "participantId": "p2",
        "purpose": "ivr",
        "sessions": [
            _session(
                2, _segment("09:00:00.200", "09:00:10.000", "ivr", disconnectType="transfer"), flow={"flowId": "f1"}
            )
        ],
    },
    {
        "participantId": "p3",
        "purpose": "acd",
        "sessions": [
            _session(
                3,
                _segment("09:00:10.000", "09:00:20.000", queueId="q1", sipResponseCodes=[410]),
                metrics={"nOffered": 1, "nOverSla": 1},
            )
        ],
    },
    {
        "participantId": "p4",
        "purpose": "agent",
        "userId": "u1",
        "sessions": [_session(4, _segment("09:00:11.000", "09:00:15.000", "alert"), metrics={"tNotResponding": 4000})],
    },
    {
        "participantId": "p5",
        "purpose": "agent",
        "userId": "u2",
        "sessions": [
            _session(
                5,
                _segment("09:00:20.000", "09:04:00.000", queueId="q1"),
                _segment("09:04:00.000", "09:04:30.000", "wrapup", queueId="q1", wrapUpCode="w1", wrapUpTags=[]),
                metrics={"tTalk": 100_000, "tTalk ": 120_000, "tHandle": 250_000},
            )
        ],
    },
    divisionIds=["d1", "d2"],
    originatingDirection="inbound",
    mediaStatsMinConversationMos=4.0,
)
ROWS: Json = {
    "rows": "conversations",
    "group_by": [],
    "delivery": "async",
    "tiers": ["history"],
    "metrics": ["nOffered", "tTalk", "tHandle"],
}
SEGMENTS: Json = ROWS | {"rows": "segments", "metrics": ["tSegmentDuration"]}
TWO_QUEUES = _conversation(
    "c2",
    "09:20:00.000",
    "09:25:00.000",
    {"participantId": "p1", "purpose": "customer", "sessions": [_session(1, _segment("09:20:00.000", "09:25:00.000"))]},
    {
        "participantId": "p2",
        "purpose": "acd",
        "sessions": [_session(2, _segment("09:20:00.000", "09:21:00.000", queueId="q1"))],
    },
    {
        "participantId": "p3",
        "purpose": "acd",
        "sessions": [_session(3, _segment("09:21:00.000", "09:22:00.000", queueId="q2"))],
    },
)


def _filter(dimension: str, *values: str | None, operator: str = "in") -> Json:
    return {"type": "and", "predicates": [{"dimension": dimension, "operator": operator, "values": list(values)}]}


def _vendor_filter(dimension: str, value: str) -> list[Json]:
    predicate = {"dimension": dimension, "operator": "matches", "value": value}
    return [{"type": "and", "clauses": [{"type": "or", "predicates": [predicate]}]}]


DETAILS: dict[str, Shape] = {
    "whole call": Shape(
        [_details(CALL)],
        ROWS,
        [
            {
                "conversation_id": "c1",
                "media_type": "voice",
                "first_queue_id": "q1",
                "last_user_id": "u2",
                "agents": 2,
                "ani": "tel:+15550123",
                "n_offered": 1,
                "t_talk": 220_000,
                "t_handle": 250_000,
                "division_id": "d1",
            }
        ],
    ),
    "segments of a whole call": Shape(
        [_details(CALL)],
        SEGMENTS,
        [
            {"segment_type": "system"},
            {"segment_type": "interact", "purpose": "customer"},
            {"segment_type": "ivr", "disconnect_type": "transfer", "user_id": None},
            {"segment_type": "interact", "purpose": "acd"},
            {"segment_type": "alert", "user_id": "u1"},
            {"segment_type": "interact", "user_id": "u2"},
            {"segment_type": "wrapup", "wrap_up_code": "w1", "t_segment_duration": 30_000, "user_id": "u2"},
        ],
    ),
    "open conversation": Shape(
        [
            _details(
                _conversation(
                    "c3",
                    "09:10:00.000",
                    None,
                    {"participantId": "p", "purpose": "acd", "sessions": [_session(1, _segment("09:10:01.000"))]},
                ),
                until="2026-03-02T12:00:00.000Z",
            )
        ],
        ROWS,
        [{"conversation_end": None, "agents": 0, "t_handle": 0}],
        until="2026-03-02T09:00:00Z",
    ),
    "bare conversations": Shape(
        [
            _details(
                {
                    "conversationId": "c4",
                    "conversationStart": "2026-03-02T09:11:00.000Z",
                    "conversationEnd": "2026-03-02T09:12:00.000Z",
                },
                _conversation(
                    "c5",
                    "09:12:00.000",
                    "09:13:00.000",
                    {"participantId": "p"},
                    {"participantId": "q", "sessions": [{"sessionId": "s", "mediaType": "voice"}]},
                ),
            )
        ],
        ROWS,
        [{"conversation_id": "c4", "media_type": None, "t_talk": 0}, {"conversation_id": "c5", "media_type": "voice"}],
    ),
    "thread that lasts for days": Shape(
        [_details(_conversation("c6", "10:15:00.000", None), until="2026-03-04T22:00:00.000Z")],
        ROWS,
        [{"conversation_end": None}],
    ),
    "thread that has ended after a week": Shape(
        [
            _details(
                _conversation(
                    "c6",
                    "10:15:00.000",
                    "2026-03-08T18:00:00.000Z",
                    {"participantId": "p", "userId": "u1", "sessions": [_session(1, metrics={"tHandle": 545_000_000})]},
                )
            )
        ],
        ROWS,
        [{"conversation_end": "2026-03-08T18:00:00Z", "t_handle": 545_000_000}],
        until="2026-03-14T00:00:00Z",
    ),
    "same record twice": Shape([_details(CALL, CALL)], ROWS, [{"conversation_id": "c1"}]),
    "same record on two pages": Shape(
        [_details(CALL, cursor="next"), _details(CALL)], ROWS, [{"conversation_id": "c1"}]
    ),
    "same segments twice": Shape(
        [_details(TWO_QUEUES, TWO_QUEUES)], SEGMENTS, [{"session_id": "s1"}, {"session_id": "s2"}, {"session_id": "s3"}]
    ),
    "two different records of one id": Shape(
        [_details(CALL, CALL | {"originatingDirection": "outbound"})],
        ROWS,
        refused="two different records of .*conversation_id c1: originating_direction is (in|out)bound",
    ),
    "page without the list": Shape([{"dataAvailabilityDate": LATE}], ROWS, []),
    "page with an empty list": Shape([_details()], ROWS, []),
    "began before the interval": Shape(
        [_details(CALL, _conversation("c0", "2026-03-01T23:59:00.000Z", "09:00:00.000"))],
        ROWS,
        [{"conversation_id": "c1"}],
    ),
    "page without watermark": Shape(
        [_details(CALL, until=None)], ROWS, [{"conversation_id": "c1"}], until="2026-03-14T00:00:00Z"
    ),
    "ended while a wrap-up lasts": Shape(
        [
            _details(
                _conversation(
                    "c7",
                    "09:00:00.000",
                    "09:05:00.000",
                    {
                        "participantId": "p",
                        "userId": "u1",
                        "sessions": [_session(1, _segment("09:05:00.000", None, "wrapup"))],
                    },
                )
            )
        ],
        ROWS,
        [{"conversation_id": "c7", "conversation_end": "2026-03-02T09:05:00Z"}],
    ),
    "segments of one of two queues": Shape(
        [_details(TWO_QUEUES)],
        SEGMENTS | {"filters": _filter("queueId", "q1")},
        [{"queue_id": "q1", "session_id": "s2"}],
    ),
    "segments of any queue": Shape(
        [_details(TWO_QUEUES)],
        SEGMENTS | {"filters": _filter("queueId", None, operator="notIn")},
        [{"queue_id": "q1"}, {"queue_id": "q2"}],
    ),
    "segments of a purpose": Shape(
        [_details(CALL)], SEGMENTS | {"filters": _filter("purpose", "ivr")}, [{"segment_type": "ivr"}]
    ),
    "conversations of one of two queues": Shape(
        [_details(TWO_QUEUES)], ROWS | {"filters": _filter("queueId", "q2")}, [{"conversation_id": "c2"}]
    ),
    "filter on conversations": Shape(
        [_details()],
        ROWS | {"filters": _filter("originatingDirection", "inbound")},
        [],
        sent={"conversationFilters": _vendor_filter("originatingDirection", "inbound"), "segmentFilters": None},
    ),
    "filter by division": Shape(
        [_details()],
        ROWS | {"filters": _filter("divisionId", "d1")},
        [],
        sent={"conversationFilters": _vendor_filter("divisionId", "d1"), "segmentFilters": None},
    ),
    "filter on segments": Shape(
        [_details()],
        ROWS | {"filters": _filter("mediaType", "voice")},
        [],
        sent={"conversationFilters": None, "segmentFilters": _vendor_filter("mediaType", "voice")},
    ),
    "filter on both": Shape(
        [_details(CALL)],
        SEGMENTS
        | {
            "filters": {
                "type": "and",
                "predicates": [
                    *_filter("divisionId", "d1")["predicates"],
                    *_filter("segmentType", "ivr")["predicates"],
                ],
            }
        },
        [{"segment_type": "ivr"}],
        sent={
            "conversationFilters": _vendor_filter("divisionId", "d1"),
            "segmentFilters": _vendor_filter("segmentType", "ivr"),
        },
    ),
    "filter on both joined by or": Shape(
        [],
        ROWS
        | {
            "filters": {
                "type": "or",
                "predicates": [*_filter("divisionId", "d1")["predicates"], *_filter("queueId", "q1")["predicates"]],
            }
        },
        refused="can only be joined by and",
    ),
    "filter by an unknown dimension": Shape(
        [], ROWS | {"filters": _filter("queue", "q1")}, refused="cannot be filtered by queue"
    ),
    "segments filtered by what they do not hold": Shape(
        [], SEGMENTS | {"filters": _filter("flowId", "f1")}, refused="cannot be filtered by flowId"
    ),
}


def _stretch(start: str, end: str | None, state: str, field_name: str = "systemPresence") -> Json:
    times = {"startTime": f"2026-03-{start}Z", **({} if end is None else {"endTime": f"2026-03-{end}Z"})}
    return {**times, field_name: state, **({"organizationPresenceId": "o1"} if field_name == "systemPresence" else {})}


def _users(*entries: Json, until: str = LATE) -> Json:
    return {"userDetails": list(entries), "dataAvailabilityDate": until}


def _presence(*stretches: Json, user: str = "u1") -> Json:
    return {"userId": user, "primaryPresence": list(stretches)}


PRESENCE: Json = ROWS | {"query_type": "users", "rows": "presence", "metrics": ["tSystemPresence"]}
NIGHT = _stretch("02T22:00:00.000", "03T06:00:00.000", "OFFLINE")
USERS: dict[str, Shape] = {
    "presence of a day": Shape(
        [
            _users(
                _presence(
                    _stretch("02T08:00:00.123", "02T12:00:00.000", "ON_QUEUE"),
                    _stretch("02T12:00:00.000", "02T12:30:00.456", "MEAL"),
                )
            )
        ],
        PRESENCE,
        [{"system_presence": "ON_QUEUE"}, {"system_presence": "MEAL", "t_system_presence": 1_800_456}],
    ),
    "routing of a day": Shape(
        [
            _users(
                {
                    "userId": "u1",
                    "routingStatus": [
                        _stretch("02T08:00:00.000", "02T08:10:00.000", "NOT_RESPONDING", "routingStatus")
                    ],
                }
            )
        ],
        PRESENCE | {"rows": "routing", "metrics": ["tAgentRoutingStatus"]},
        [{"routing_status": "NOT_RESPONDING", "t_agent_routing_status": 600_000}],
    ),
    "weekend seen on Sunday": Shape(
        [_users(_presence(_stretch("02T17:30:00.000", None, "OFFLINE")), until="2026-03-04T20:00:00.000Z")],
        PRESENCE,
        [{"system_presence": "OFFLINE", "t_system_presence": None}],
    ),
    "weekend seen on Monday": Shape(
        [_users(_presence(_stretch("02T17:30:00.000", "05T08:00:00.000", "OFFLINE")))],
        PRESENCE,
        [{"t_system_presence": 225_000_000}],
    ),
    "stretch stored twice": Shape(
        [_users(_presence(NIGHT), _presence(NIGHT))], PRESENCE, [{"t_system_presence": 28_800_000}]
    ),
    "user in two entries": Shape(
        [
            _users(
                _presence(_stretch("02T08:00:00.000", "02T09:00:00.000", "ON_QUEUE")),
                _presence(_stretch("02T09:00:00.000", "02T09:10:00.000", "BREAK")) | {"routingStatus": []},
            )
        ],
        PRESENCE,
        [{"system_presence": "ON_QUEUE"}, {"system_presence": "BREAK"}],
    ),
    "offline for weeks": Shape(
        [_users(_presence(_stretch("01T16:00:00.000", "13T08:00:00.000", "OFFLINE")))], PRESENCE, []
    ),
    "without presence": Shape([_users({"userId": "u1"})], PRESENCE, []),
    "stretch of no length": Shape(
        [
            _users(
                _presence(
                    _stretch("02T08:00:00.000", "02T08:00:00.000", "AVAILABLE"),
                    _stretch("02T08:00:00.000", "02T09:00:00.000", "ON_QUEUE"),
                )
            )
        ],
        PRESENCE,
        [{"system_presence": "ON_QUEUE"}],
    ),
    "two stretches with one start": Shape(
        [_users(_presence(NIGHT), _presence(_stretch("02T22:00:00.000", "03T07:00:00.000", "OFFLINE")))],
        PRESENCE,
        refused="two different records of .*user_id u1",
    ),
}
SHAPES = AGGREGATES | JOBS_AND_ERRORS | DETAILS | USERS


class _Refusal(CachePipelineError):
    """The declaration is refused."""


async def _read(shape: Shape, sent: list[Json]) -> tuple[list[Json], Any]:
    report: Report = genesys_report(**({"granularity": "PT1H"} | shape.report))
    interval = Interval.parse(MORNING if report.rows is None and report.granularity == "PT1H" else DAY)
    pages = iter(shape.pages)

    def answer(request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if request.method == "POST":
            sent.append(json.loads(request.content))
            if path.endswith("/jobs"):
                return httpx.Response(202, json={"jobId": "j1"})
            page = next(pages)
            content = {"text": page["html"]} if "html" in page else {"json": page}
            return httpx.Response(shape.http_status, **content)
        if path.endswith("/availability"):
            return httpx.Response(200, json={"dataAvailabilityDate": LATE})
        return httpx.Response(200, json=next(pages) if path.endswith("/results") else shape.status)

    if problems := list(GenesysAdapter.check_declaration(report)):
        raise _Refusal("; ".join(problem for _, problem in problems))
    async with mock_client(answer) as client:
        adapter = GenesysAdapter(client)
        job = await adapter.submit(report, interval, Lane.scheduled)
        if not (await adapter.status(job)).is_done:
            raise _Refusal("not done")
        read = await read_pages(adapter, job, report)
    assert next(pages, None) is None
    return merge_pages(read, adapter, report).to_pylist(), read[-1].watermark


def _plain(value: Any) -> Any:
    return format_instant(value) if hasattr(value, "tzinfo") else value


@pytest.mark.parametrize("name", SHAPES)
async def test_answer_of_this_shape_is_read_or_refused(name: str) -> None:
    shape, sent = SHAPES[name], list[Json]()
    if shape.refused is not None:
        with pytest.raises(CachePipelineError, match=shape.refused):
            await _read(shape, sent)
        return
    rows, watermark = await _read(shape, sent)
    assert shape.rows is not None
    assert len(rows) == len(shape.rows)
    left = [{column: _plain(value) for column, value in row.items()} for row in rows]
    for expected in shape.rows:
        found = [row for row in left if expected.items() <= row.items()]
        assert found, (expected, left)
        left.remove(found[0])
    for field_name, value in shape.sent.items():
        assert sent[0].get(field_name) == value
    if shape.until is not None:
        assert format_instant(watermark) == shape.until
