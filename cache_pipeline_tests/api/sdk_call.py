"""Call methods of the vendor's own SDK in a separate process, and print the answers as JSON.

The SDK watches HOME and reads settings at import, so HOME must be an empty folder. Standard input has `url`, `id` and `secret`, and
`calls`, each with `api`, `method` and `arguments`.
"""

import json
import sys
from typing import Any

import PureCloudPlatformClientV2 as sdk  # noqa: N813 - the package's own name
from PureCloudPlatformClientV2.rest import ApiException


def main() -> None:
    """Call, and print one answer for each call."""
    task = json.load(sys.stdin)
    sdk.configuration.host = task["url"]
    client = sdk.api_client.ApiClient()
    client.get_client_credentials_token(task["id"], task["secret"])
    answers: list[Any] = []
    for call in task["calls"]:
        try:
            answer = getattr(getattr(sdk, call["api"])(client), call["method"])(*call["arguments"])
            answers.append(json.loads(answer.to_json()))
        except ApiException as error:
            answers.append({"status": error.status, "body": json.loads(error.body)})
    print(json.dumps(answers))


main()
