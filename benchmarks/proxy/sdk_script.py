"""Call the vendor's own SDK at one host, one call for each line of standard input, and print a line for each answer.

The SDK watches HOME and reads settings at import, so HOME must be an empty folder. The first line has `url`, `id` and `secret`; each
further one has the `method` of the analytics API and the `body`. A printed line has `status`, 200 for an answer, the `seconds` that the
call took, and the `document`, null for a refusal.
"""

import json
import sys
import time
from typing import Any

import PureCloudPlatformClientV2 as sdk  # noqa: N813 - the package's own name
from PureCloudPlatformClientV2.rest import ApiException


def main() -> None:
    """Log in, and call until the input ends."""
    host = json.loads(sys.stdin.readline())
    sdk.configuration.host = host["url"]
    client: Any = sdk.api_client.ApiClient()
    client.get_client_credentials_token(host["id"], host["secret"])
    client.get_http_client().rest_client.pool_manager.connection_pool_kw["retries"] = False
    api = sdk.AnalyticsApi(client)
    for line in sys.stdin:
        call = json.loads(line)
        started, status, answer = time.perf_counter(), 200, None
        try:
            answer = getattr(api, call["method"])(call["body"])
        except ApiException as error:
            status = error.status
        seconds = time.perf_counter() - started
        document = None if answer is None else json.loads(answer.to_json())
        print(json.dumps({"status": status, "seconds": seconds, "document": document}), flush=True)


main()
