"""Send the same queries with the vendor's own SDK to several hosts, in a separate process, and print all answers as JSON.

The SDK watches HOME and reads settings at import, so HOME must be an empty folder. Standard input has `hosts`, each with `url`,
`id` and `secret`, `queries`, each with `family` and `body`, and `by_job`.
"""

import json
import sys
import time
from typing import Any

import PureCloudPlatformClientV2 as sdk  # noqa: N813 - the package's own name
from PureCloudPlatformClientV2.rest import ApiException

_KINDS = {"conversations": "Conversation", "flows": "Flow", "users": "User"}
_PAGE_SIZE = 3


def _log_in(host: dict[str, str]) -> Any:
    # A user of the SDK changes this line alone.
    sdk.configuration.host = host["url"]
    client = sdk.api_client.ApiClient()
    client.get_client_credentials_token(host["id"], host["secret"])
    client.get_http_client().rest_client.pool_manager.connection_pool_kw["retries"] = False
    return sdk.AnalyticsApi(client)


def _query(model: str, body: dict[str, Any]) -> Any:
    query = getattr(sdk, model)()
    names = {wire: name for name, wire in query.attribute_map.items()}
    for wire, value in body.items():
        setattr(query, names[wire], value)
    return query


def _ask_by_job(api: Any, family: str, body: dict[str, Any]) -> Any:
    query = _query(f"{_KINDS[family]}AsyncAggregationQuery", {**body, "pageSize": _PAGE_SIZE})
    job = getattr(api, f"post_analytics_{family}_aggregates_jobs")(query).job_id
    state = None
    while state not in ("FULFILLED", "FAILED", "CANCELLED", "EXPIRED"):
        status = getattr(api, f"get_analytics_{family}_aggregates_job")(job)
        assert status.submission_date < status.expiration_date
        state = status.state
        time.sleep(0.02)
    assert state == "FULFILLED", status.error_message
    results: list[Any] = []
    cursor = None
    while True:
        page = getattr(api, f"get_analytics_{family}_aggregates_job_results")(
            job, **({"cursor": cursor} if cursor else {})
        )
        assert len(page.results) <= _PAGE_SIZE
        results += json.loads(page.to_json())["results"]
        cursor = page.cursor
        if cursor is None:
            break
    getattr(api, f"delete_analytics_{family}_aggregates_job")(job)
    return {"results": results}


def _ask(api: Any, family: str, body: dict[str, Any], *, by_job: bool) -> Any:
    if by_job:
        return _ask_by_job(api, family, body)
    query = _query(f"{_KINDS[family]}AggregationQuery", body)
    try:
        answer = getattr(api, f"post_analytics_{family}_aggregates_query")(query)
    except ApiException as error:
        return {"status": error.status, "body": json.loads(error.body)}
    return json.loads(answer.to_json())


def main() -> None:
    """Ask, and print one list of answers for each host."""
    task = json.load(sys.stdin)
    answers = []
    for host in task["hosts"]:
        api = _log_in(host)
        answers.append([_ask(api, query["family"], query["body"], by_job=task["by_job"]) for query in task["queries"]])
    print(json.dumps(answers))


main()
