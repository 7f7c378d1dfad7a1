"""Call methods of the vendor's own SDK at several hosts, in a separate process, and print all answers as JSON.

The SDK watches HOME and reads settings at import, so HOME must be an empty folder. Standard input has `hosts`, each with `url`,
`id` and `secret`, and `calls`, each with `api`, `method`, and perhaps `arguments` and `options`.
"""

import json
import sys
from typing import Any

import PureCloudPlatformClientV2 as sdk  # noqa: N813 - the package's own name
from PureCloudPlatformClientV2.rest import ApiException


def _log_in(host: dict[str, str]) -> Any:
    sdk.configuration.host = host["url"]
    client = sdk.api_client.ApiClient()
    client.get_client_credentials_token(host["id"], host["secret"])
    client.get_http_client().rest_client.pool_manager.connection_pool_kw["retries"] = False
    return client


def _call(client: Any, call: dict[str, Any]) -> Any:
    method = getattr(getattr(sdk, call["api"])(client), call["method"])
    try:
        answer = method(*call.get("arguments", []), **call.get("options", {}))
    except ApiException as error:
        return {"status": error.status, "body": json.loads(error.body)}
    return _without_null(json.loads(answer.to_json()))


def _without_null(value: Any) -> Any:
    """Return JSON without the fields that the SDK adds because they are absent."""
    if isinstance(value, dict):
        return {name: _without_null(each) for name, each in value.items() if each is not None}
    return [_without_null(each) for each in value] if isinstance(value, list) else value


def main() -> None:
    """Call, and print one list of answers for each host."""
    task = json.load(sys.stdin)
    answers: list[list[Any]] = []
    for host in task["hosts"]:
        client = _log_in(host)
        answers.append([_call(client, call) for call in task["calls"]])
    print(json.dumps(answers))


main()
