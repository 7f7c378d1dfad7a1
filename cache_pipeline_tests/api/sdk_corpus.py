"""Send the same queries with the vendor's own SDK to several hosts, in a separate process, and print all answers as JSON.

The SDK watches HOME and reads settings at import, so HOME must be an empty folder. Standard input has `hosts`, each with `url`,
`id` and `secret`, and `queries`, each with `family` and `body`.
"""

import json
import sys
from typing import Any

import PureCloudPlatformClientV2 as sdk  # noqa: N813 - the package's own name
from PureCloudPlatformClientV2.rest import ApiException

_MODELS = {"conversations": "ConversationAggregationQuery", "flows": "FlowAggregationQuery"}


def _log_in(host: dict[str, str]) -> Any:
    # A user of the SDK changes this line alone.
    sdk.configuration.host = host["url"]
    client = sdk.api_client.ApiClient()
    client.get_client_credentials_token(host["id"], host["secret"])
    client.get_http_client().rest_client.pool_manager.connection_pool_kw["retries"] = False
    return sdk.AnalyticsApi(client)


def _ask(api: Any, family: str, body: dict[str, Any]) -> Any:
    query = getattr(sdk, _MODELS[family])()
    names = {wire: name for name, wire in query.attribute_map.items()}
    for wire, value in body.items():
        setattr(query, names[wire], value)
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
        answers.append([_ask(api, query["family"], query["body"]) for query in task["queries"]])
    print(json.dumps(answers))


main()
