"""Send queries to one host with the vendor's own SDK, one after another, and print answers and seconds as JSON.

The SDK watches HOME and reads settings at import, so HOME must be an empty folder. Standard input has `url`, `id`, `secret`, and
`queries`, each with `family` and `body`, and `pause`: the seconds from one query to the next, if the answer does not take longer.
"""

import json
import sys
import time
from typing import Any

import PureCloudPlatformClientV2 as sdk  # noqa: N813 - the package's own name
from PureCloudPlatformClientV2.rest import ApiException

_MODELS = {
    "conversations": "ConversationAggregationQuery",
    "flows": "FlowAggregationQuery",
    "users": "UserAggregationQuery",
}


def _ask(api: Any, family: str, body: dict[str, Any]) -> Any:
    query = getattr(sdk, _MODELS[family])()
    names = {wire: name for name, wire in query.attribute_map.items()}
    for wire, value in body.items():
        setattr(query, names[wire], value)
    try:
        return json.loads(getattr(api, f"post_analytics_{family}_aggregates_query")(query).to_json())
    except ApiException as error:
        return {"status": error.status}


def main() -> None:
    """Ask, and print the answers."""
    task = json.load(sys.stdin)
    sdk.configuration.host = task["url"]
    client: Any = sdk.api_client.ApiClient()
    client.get_client_credentials_token(task["id"], task["secret"])
    client.get_http_client().rest_client.pool_manager.connection_pool_kw["retries"] = False
    api = sdk.AnalyticsApi(client)
    answers: list[Any] = []
    seconds: list[float] = []
    for query in task["queries"]:
        started = time.perf_counter()
        answers.append(_ask(api, query["family"], query["body"]))
        seconds.append(time.perf_counter() - started)
        time.sleep(max(0.0, task["pause"] - seconds[-1]))
    print(json.dumps({"answers": answers, "seconds": seconds}))


main()
