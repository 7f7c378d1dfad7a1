"""The vendor's own SDK drives the simulator: run in a process of its own, for it watches HOME and makes settings at import.

Called with the simulator's URL; HOME must be an empty folder. Prints one JSON object of what it saw.
"""

import inspect
import json
import re
import sys
import time
from typing import Any

import PureCloudPlatformClientV2 as sdk  # noqa: N813 - the package's own name
from PureCloudPlatformClientV2.rest import ApiException

URL = sys.argv[1]
DAY = "2024-06-10T00:00:00.000Z/2024-06-11T00:00:00.000Z"
OUTDATED = "outdated_sdk_version"


def _logged_in(client_id: str, secret: str) -> Any:
    sdk.configuration.host = URL
    client = sdk.api_client.ApiClient()
    client.get_client_credentials_token(client_id, secret)
    # It would wait out a 429 by itself; the tests want to see it.
    client.get_http_client().rest_client.pool_manager.connection_pool_kw["retries"] = False
    return sdk.AnalyticsApi(client)


def _refusal(call: Any, *arguments: Any, **more: Any) -> dict[str, Any]:
    try:
        call(*arguments, **more)
    except ApiException as error:
        body = json.loads(error.body)
        return {
            "status": error.status,
            "code": body["code"],
            "message": body["message"],
            "traced": body["contextId"] == error.headers.get("ININ-Correlation-Id"),
            "retry_after": error.headers.get("Retry-After"),
            "limit": body.get("limit"),
        }
    raise AssertionError(f"{call.__name__} was not refused")


def _followed(status: Any, job_id: str) -> list[str]:
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
    states = _followed(api.get_analytics_conversations_details_job, job)
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
        "scalars": sorted(each for each in scalars if each is not None),
        "after_delete": _refusal(api.get_analytics_conversations_details_job, job),
        "watermark": api.get_analytics_conversations_details_jobs_availability().data_availability_date.isoformat(),
        "query": {"rows": len(page.conversations), "hits": page.total_hits},
    }


def _users(api: Any) -> dict[str, Any]:
    query = sdk.AsyncUserDetailsQuery()
    query.interval = DAY
    job = api.post_analytics_users_details_jobs(query).job_id
    states = _followed(api.get_analytics_users_details_job, job)
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
    at_once = getattr(api, f"post_analytics_{family}_aggregates_query")(query)
    by_job = getattr(sdk, f"{kind}AsyncAggregationQuery")()
    by_job.interval, by_job.granularity, by_job.group_by, by_job.metrics = DAY, "PT1H", group, [metrics]
    by_job.page_size = 2
    job = getattr(api, f"post_analytics_{family}_aggregates_jobs")(by_job).job_id
    states = _followed(getattr(api, f"get_analytics_{family}_aggregates_job"), job)
    results, pages = _pages(getattr(api, f"get_analytics_{family}_aggregates_job_results"), job, "results")
    getattr(api, f"delete_analytics_{family}_aggregates_job")(job)
    return {
        "states": states,
        "pages": pages,
        "groups": len(results),
        "same": [each.to_json() for each in results] == [each.to_json() for each in at_once.results],
    }


#: Family, and what the SDK calls its models.
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
    """The words that a setter of the SDK lets pass."""
    words = re.search(r"allowed_values = \[(.*?)\]", inspect.getsource(getattr(model, name).fset), re.DOTALL)
    assert words is not None
    return sorted(re.findall(r'"([^"]+)"', words[1]))


def _words() -> dict[str, Any]:
    return {
        family: {
            "metrics": _allowed(getattr(sdk, f"{kind}AggregationView"), "target"),
            "dimensions": _allowed(getattr(sdk, f"{kind}AggregateQueryPredicate"), "dimension"),
        }
        for family, kind in _KINDS.items()
    }


def _other_families(api: Any, words: dict[str, Any]) -> dict[str, Any]:
    """Every family beside those above: all of its metrics at once, by a job and by a query; the jobs run side by side."""
    jobs: dict[str, str] = {}
    for family in list(_KINDS)[3:]:
        query = getattr(sdk, f"{_KINDS[family]}AsyncAggregationQuery")()
        query.interval, query.granularity, query.metrics = DAY, "PT12H", words[family]["metrics"]
        query.group_by = [name for name in ("queueId", "divisionId") if name in words[family]["dimensions"]]
        jobs[family] = getattr(api, f"post_analytics_{family}_aggregates_jobs")(query).job_id
    seen: dict[str, Any] = {}
    for family, job in jobs.items():
        states = _followed(getattr(api, f"get_analytics_{family}_aggregates_job"), job)
        results, _ = _pages(getattr(api, f"get_analytics_{family}_aggregates_job_results"), job, "results")
        getattr(api, f"delete_analytics_{family}_aggregates_job")(job)
        query = getattr(sdk, f"{_KINDS[family]}AggregationQuery")()
        query.interval, query.granularity, query.metrics = DAY, "PT12H", words[family]["metrics"]
        query.group_by = [name for name in ("queueId", "divisionId") if name in words[family]["dimensions"]]
        at_once = getattr(api, f"post_analytics_{family}_aggregates_query")(query).results
        told = [entry for result in results for bucket in result.data for entry in bucket.metrics]
        seen[family] = {
            "states": states,
            "told": sorted({entry.metric for entry in told}),
            "same": [each.to_json() for each in results] == [each.to_json() for each in at_once],
        }
    return seen


def _errors(api: Any) -> dict[str, Any]:
    query = sdk.ConversationAggregationQuery()
    query.interval, query.metrics = DAY, ["nImaginary"]
    long = sdk.ConversationQuery()
    long.interval = "2024-01-01T00:00:00.000Z/2024-06-01T00:00:00.000Z"
    large = {"interval": DAY, "conversationFilters": [{"type": "x" * 600_000}]}
    job = api.post_analytics_conversations_details_jobs({"interval": DAY}).job_id
    refused = _logged_in("limited-client", "limited-secret")
    return {
        "metric": _refusal(api.post_analytics_conversations_aggregates_query, query),
        "interval": _refusal(api.post_analytics_conversations_details_query, long),
        "body": _refusal(api.post_analytics_conversations_details_jobs, large),
        "early": _refusal(api.get_analytics_conversations_details_job_results, job),
        "permission": _refusal(refused.post_analytics_users_details_jobs, {"interval": DAY}),
        "rate": _refusal(_exhausted, refused),
    }


def _exhausted(api: Any) -> None:
    for _ in range(2000):
        api.get_analytics_conversations_details_jobs_availability()


def main() -> None:
    """Drive every family."""
    api = _logged_in("demo-client", "demo-secret")
    seen = {"details": _details(api), "users": _users(api)}
    seen |= {family: _aggregates(api, family) for family in ("conversations", "flows")}
    seen["user_aggregates"] = _aggregates(api, "users")
    seen["words"] = _words()
    seen["others"] = _other_families(api, seen["words"])
    seen["errors"] = _errors(api)
    print(json.dumps(seen))


main()
