"""Drive the simulator with the vendor's own SDK, in a separate process: the SDK watches HOME and reads settings at import.

The argument is the simulator's URL; HOME must be an empty folder. Prints one JSON object with the observations.
"""

import inspect
import json
import re
import sys
import time
from datetime import UTC, datetime
from typing import Any
from urllib.request import Request, urlopen

import PureCloudPlatformClientV2 as sdk  # noqa: N813 - the package's own name
from PureCloudPlatformClientV2.rest import ApiException
from websockets.sync.client import connect

URL = sys.argv[1]
DAY = "2024-06-10T00:00:00.000Z/2024-06-11T00:00:00.000Z"
OUTDATED = "outdated_sdk_version"


def _log_in(client_id: str, secret: str) -> Any:
    sdk.configuration.host = URL
    client = sdk.api_client.ApiClient()
    client.get_client_credentials_token(client_id, secret)
    # By default the SDK retries after a 429; the tests need to see the 429.
    client.get_http_client().rest_client.pool_manager.connection_pool_kw["retries"] = False
    return sdk.AnalyticsApi(client)


def _refusal(call: Any, *arguments: Any, **options: Any) -> dict[str, Any]:
    try:
        call(*arguments, **options)
    except ApiException as error:
        body = json.loads(error.body)
        return {
            "status": error.status,
            "code": body["code"],
            "message": body["message"],
            "is_traceable": body["contextId"] == error.headers.get("ININ-Correlation-Id"),
            "retry_after": error.headers.get("Retry-After"),
            "limit": body.get("limit"),
        }
    raise AssertionError(f"{call.__name__} was not refused")


def _poll_until_done(status: Any, job_id: str) -> list[str]:
    states: list[str] = []
    while not states or states[-1] not in ("FULFILLED", "FAILED", "CANCELLED", "EXPIRED", OUTDATED):
        answer = status(job_id)
        assert answer.submission_date < answer.expiration_date
        states.append(answer.state)
        time.sleep(0.05)
    return list(dict.fromkeys(states))


def _pages(results: Any, job_id: str, field: str, **sizes: int) -> tuple[list[Any], int]:
    entries: list[Any] = []
    pages, cursor = 0, None
    while True:
        page = results(job_id, **({"cursor": cursor} if cursor else {}), **sizes)
        entries += getattr(page, field) or []
        pages += 1
        cursor = page.cursor
        if not cursor:
            return entries, pages


def _details(api: Any) -> dict[str, Any]:
    query = sdk.AsyncConversationQuery()
    query.interval, query.order, query.order_by = DAY, "asc", "conversationStart"
    job = api.post_analytics_conversations_details_jobs(query).job_id
    states = _poll_until_done(api.get_analytics_conversations_details_job, job)
    rows, pages = _pages(api.get_analytics_conversations_details_job_results, job, "conversations", page_size=200)
    api.delete_analytics_conversations_details_job(job)
    sessions = [(p, s) for row in rows for p in row.participants for s in p.sessions]
    scalars = {
        *(row.originating_direction for row in rows),
        *(row.conversation_initiator for row in rows),
        *(participant.purpose for participant, _ in sessions),
        *(session.media_type for _, session in sessions),
        *(segment.segment_type for _, session in sessions for segment in session.segments),
        *(segment.disconnect_type for _, session in sessions for segment in session.segments),
    }
    sync = sdk.ConversationQuery()
    sync.interval, sync.paging = DAY, {"pageSize": 100, "pageNumber": 1}
    page = api.post_analytics_conversations_details_query(sync)
    return {
        "states": states,
        "pages": pages,
        "conversations": len(rows),
        "offered": sum(
            metric.name == "nOffered" and metric.emit_date.strftime("%Y-%m-%d") == "2024-06-10"
            for _, session in sessions
            for metric in session.metrics or []
        ),
        "scalars": sorted(value for value in scalars if value is not None),
        "after_delete": _refusal(api.get_analytics_conversations_details_job, job),
        "watermark": api.get_analytics_conversations_details_jobs_availability().data_availability_date.isoformat(),
        "query": {"rows": len(page.conversations), "hits": page.total_hits},
    }


def _users(api: Any) -> dict[str, Any]:
    query = sdk.AsyncUserDetailsQuery()
    query.interval = DAY
    job = api.post_analytics_users_details_jobs(query).job_id
    states = _poll_until_done(api.get_analytics_users_details_job, job)
    users, pages = _pages(api.get_analytics_users_details_job_results, job, "user_details", page_size=10)
    api.delete_analytics_users_details_job(job)
    aggregate = sdk.UserAggregationQuery()
    aggregate.interval, aggregate.group_by, aggregate.metrics = DAY, ["userId"], ["tSystemPresence"]
    results = api.post_analytics_users_aggregates_query(aggregate).results
    return {
        "states": states,
        "pages": pages,
        "users": len(users),
        "presences": sorted({record.system_presence for user in users for record in user.primary_presence}),
        "routing": sorted({record.routing_status for user in users for record in user.routing_status}),
        "aggregate_users": len(results),
        "qualifiers": sorted({entry.qualifier for result in results for entry in result.data[0].metrics}),
    }


def _aggregates(api: Any, family: str) -> dict[str, Any]:
    kind = _KINDS[family]
    metrics = {"conversations": "nOffered", "users": "tSystemPresence", "flows": "nFlow"}[family]
    group = {"conversations": ["queueId", "mediaType"], "users": ["userId"], "flows": ["flowId"]}[family]
    query = getattr(sdk, f"{kind}AggregationQuery")()
    query.interval, query.granularity, query.group_by, query.metrics = DAY, "PT1H", group, [metrics]
    synchronous = getattr(api, f"post_analytics_{family}_aggregates_query")(query)
    by_job = getattr(sdk, f"{kind}AsyncAggregationQuery")()
    by_job.interval, by_job.granularity, by_job.group_by, by_job.metrics = DAY, "PT1H", group, [metrics]
    by_job.page_size = 2
    job = getattr(api, f"post_analytics_{family}_aggregates_jobs")(by_job).job_id
    states = _poll_until_done(getattr(api, f"get_analytics_{family}_aggregates_job"), job)
    results, pages = _pages(getattr(api, f"get_analytics_{family}_aggregates_job_results"), job, "results")
    getattr(api, f"delete_analytics_{family}_aggregates_job")(job)
    return {
        "states": states,
        "pages": pages,
        "groups": len(results),
        "same": [result.to_json() for result in results] == [result.to_json() for result in synchronous.results],
    }


#: The SDK's model name of each family.
_KINDS = {
    "conversations": "Conversation",
    "users": "User",
    "flows": "Flow",
    "flowexecutions": "FlowExecution",
    "bots": "Bot",
    "journeys": "Journey",
    "knowledge": "Knowledge",
    "evaluations": "Evaluation",
    "surveys": "Survey",
    "transcripts": "Transcript",
    "taskmanagement": "TaskManagement",
    "casemanagement": "CaseManagement",
    "resolutions": "Resolution",
    "summaries": "Summary",
    "agentcopilots": "AgentCopilot",
    "copilots": "Copilot",
    "agentutilizations": "AgentUtilization",
    "actions": "Action",
}


def _allowed(model: Any, name: str) -> list[str]:
    """Return the values that a setter of the SDK accepts."""
    match = re.search(r"allowed_values = \[(.*?)\]", inspect.getsource(getattr(model, name).fset), re.DOTALL)
    assert match is not None
    return sorted(re.findall(r'"([^"]+)"', match[1]))


def _names() -> dict[str, Any]:
    return {
        family: {
            "metrics": _allowed(getattr(sdk, f"{kind}AggregationView"), "target"),
            "dimensions": _allowed(getattr(sdk, f"{kind}AggregateQueryPredicate"), "dimension"),
        }
        for family, kind in _KINDS.items()
    }


def _other_families(api: Any, names: dict[str, Any]) -> dict[str, Any]:
    """Fetch all metrics of every other family, by a job and by a query; the jobs run concurrently."""
    jobs: dict[str, str] = {}
    for family in list(_KINDS)[3:]:
        query = getattr(sdk, f"{_KINDS[family]}AsyncAggregationQuery")()
        query.interval, query.granularity, query.metrics = DAY, "PT12H", names[family]["metrics"]
        query.group_by = [name for name in ("queueId", "divisionId") if name in names[family]["dimensions"]]
        jobs[family] = getattr(api, f"post_analytics_{family}_aggregates_jobs")(query).job_id
    by_family: dict[str, Any] = {}
    for family, job in jobs.items():
        states = _poll_until_done(getattr(api, f"get_analytics_{family}_aggregates_job"), job)
        results, _ = _pages(getattr(api, f"get_analytics_{family}_aggregates_job_results"), job, "results")
        getattr(api, f"delete_analytics_{family}_aggregates_job")(job)
        query = getattr(sdk, f"{_KINDS[family]}AggregationQuery")()
        query.interval, query.granularity, query.metrics = DAY, "PT12H", names[family]["metrics"]
        query.group_by = [name for name in ("queueId", "divisionId") if name in names[family]["dimensions"]]
        synchronous = getattr(api, f"post_analytics_{family}_aggregates_query")(query).results
        entries = [entry for result in results for bucket in result.data for entry in bucket.metrics]
        by_family[family] = {
            "states": states,
            "metrics": sorted({entry.metric for entry in entries}),
            "same": [result.to_json() for result in results] == [result.to_json() for result in synchronous],
        }
    return by_family


def _lookups(api: Any) -> dict[str, Any]:
    """Return the names in every listing, by id, and the number of pages that each took."""
    client = api.api_client
    listings = {
        "queues": sdk.RoutingApi(client).get_routing_queues,
        "users": sdk.UsersApi(client).get_users,
        "skills": sdk.RoutingApi(client).get_routing_skills,
        "wrapupcodes": sdk.RoutingApi(client).get_routing_wrapupcodes,
        "divisions": sdk.AuthorizationApi(client).get_authorization_divisions,
        "flows": sdk.ArchitectApi(client).get_flows,
        "groups": sdk.GroupsApi(client).get_groups,
    }
    found: dict[str, Any] = {}
    for kind, listing in listings.items():
        names: dict[str, str] = {}
        scalars: set[str] = set()
        number = 0
        while True:
            number += 1
            page = listing(page_size=3, page_number=number)
            assert (page.page_number, page.page_size) == (number, 3)
            names |= {entity.id: entity.name for entity in page.entities}
            scalars |= {
                str(getattr(entity, name, "")) for entity in page.entities for name in ("state", "type", "visibility")
            }
            if page.next_uri is None:
                break
        assert (page.page_count, page.total) == (number, len(names))
        found[kind] = {"names": names, "pages": number, "scalars": sorted(scalars)}
    teams, page = {}, sdk.TeamsApi(client).get_teams(page_size="1")
    while True:
        teams |= {entity.id: entity.name for entity in page.entities}
        if page.next_uri is None:
            break
        after = page.next_uri.partition("after=")[2].partition("&")[0]
        page = sdk.TeamsApi(client).get_teams(page_size="1", after=after)
    found["teams"] = {"names": teams, "pages": len(teams), "scalars": []}
    return found


def _observations(api: Any) -> dict[str, Any]:
    """Return what happens now by queue, and the queues of users."""
    client = api.api_client
    of_queues = [
        "oMemberUsers",
        "oUserPresences",
        "oUserRoutingStatuses",
        "oWaiting",
        "oLongestWaiting",
        "oInteracting",
    ]
    kinds = {
        "queue": (sdk.RoutingApi(client).get_routing_queues, api.post_analytics_queues_observations_query, of_queues),
        "user": (sdk.UsersApi(client).get_users, api.post_analytics_users_observations_query, ["oMemberQueues"]),
    }
    found: dict[str, Any] = {}
    for kind, (listing, ask, metrics) in kinds.items():
        model, dimension = getattr(sdk, f"{kind.capitalize()}ObservationQuery"), f"{kind}Id"
        predicates = []
        for entity in listing(page_size=100).entities:
            predicate = getattr(sdk, f"{kind.capitalize()}ObservationQueryPredicate")()
            predicate.type, predicate.dimension, predicate.operator, predicate.value = (
                "dimension",
                dimension,
                "matches",
                entity.id,
            )
            assert OUTDATED not in (predicate.dimension, predicate.operator)
            predicates.append(predicate)
        query = model()
        query.filter = getattr(sdk, f"{kind.capitalize()}ObservationQueryFilter")()
        query.filter.type, query.filter.predicates = "or", predicates
        query.metrics = metrics
        answer = ask(query)
        found[kind] = {
            "metrics": query.metrics,
            "groups": sorted({tuple(sorted(result.group)) for result in answer.results}),
            "ids": sorted({result.group[dimension] for result in answer.results}),
            "counts": {
                metric: sum(
                    each.stats.count or 0 for result in answer.results for each in result.data if each.metric == metric
                )
                for metric in query.metrics
            },
            "scalars": sorted({each.metric for result in answer.results for each in result.data}),
        }
    return found


def _notifications(api: Any) -> dict[str, Any]:
    """Return what a channel reports about a call that is placed, through the SDK's channel and subscription."""
    notifications = sdk.NotificationsApi(api.api_client)
    queue = sdk.RoutingApi(api.api_client).get_routing_queues(page_size=100).entities
    channel = notifications.post_notifications_channels()
    topics = []
    for entity in queue:
        topic = sdk.ChannelTopic()
        topic.id = f"v2.analytics.queues.{entity.id}.observations"
        topics.append(topic)
    subscribed = notifications.put_notifications_channel_subscriptions(channel.id, topics)
    listed = notifications.get_notifications_channel_subscriptions(channel.id)
    available = notifications.get_notifications_availabletopics()
    with connect(channel.connect_uri) as socket:
        socket.send(json.dumps({"message": "ping"}))
        pong = json.loads(socket.recv(timeout=10))
        body = json.dumps({"queue": 0, "wait_seconds": 600}).encode()
        headers = {"Content-Type": "application/json"}
        placed = json.loads(urlopen(Request(f"{URL}/simulator/calls", body, headers)).read())["queueId"]
        while True:
            told = json.loads(socket.recv(timeout=10))
            metrics = [metric["metric"] for part in told["eventBody"].get("data", []) for metric in part["metrics"]]
            if told["topicName"] == f"v2.analytics.queues.{placed}.observations" and "oWaiting" in metrics:
                break
    notifications.delete_notifications_channel_subscriptions(channel.id)
    return {
        "lives_hours": (channel.expires - datetime.now(UTC)).total_seconds() / 3600,
        "topics": [len(topics), len(subscribed.entities), len(listed.entities)],
        "states": sorted({str(entity.state) for entity in subscribed.entities}),
        "available": [entity.id for entity in available.entities],
        "pong": pong,
        "medium": told["eventBody"]["group"]["mediaType"],
        "left": len(notifications.get_notifications_channel_subscriptions(channel.id).entities or []),
    }


def _errors(api: Any) -> dict[str, Any]:
    query = sdk.ConversationAggregationQuery()
    query.interval, query.metrics = DAY, ["nImaginary"]
    long = sdk.ConversationQuery()
    long.interval = "2024-01-01T00:00:00.000Z/2024-06-01T00:00:00.000Z"
    large = {"interval": DAY, "conversationFilters": [{"type": "x" * 600_000}]}
    job = api.post_analytics_conversations_details_jobs({"interval": DAY}).job_id
    limited = _log_in("limited-client", "limited-secret")
    return {
        "metric": _refusal(api.post_analytics_conversations_aggregates_query, query),
        "interval": _refusal(api.post_analytics_conversations_details_query, long),
        "body": _refusal(api.post_analytics_conversations_details_jobs, large),
        "early": _refusal(api.get_analytics_conversations_details_job_results, job),
        "permission": _refusal(limited.post_analytics_users_details_jobs, {"interval": DAY}),
        "rate": _refusal(_exhaust_limit, limited),
    }


def _exhaust_limit(api: Any) -> None:
    for _ in range(2000):
        api.get_analytics_conversations_details_jobs_availability()


def main() -> None:
    """Fetch every family and print the observations."""
    api = _log_in("demo-client", "demo-secret")
    observations = {"details": _details(api), "users": _users(api)}
    observations |= {family: _aggregates(api, family) for family in ("conversations", "flows")}
    observations["user_aggregates"] = _aggregates(api, "users")
    observations["names"] = _names()
    observations["others"] = _other_families(api, observations["names"])
    observations["lookups"] = _lookups(api)
    observations["observations"] = _observations(api)
    observations["notifications"] = _notifications(api)
    observations["errors"] = _errors(api)
    print(json.dumps(observations))


main()
