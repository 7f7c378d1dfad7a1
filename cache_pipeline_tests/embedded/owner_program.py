"""A program that wants embedded servers, for tests that end it: says where they are, then waits to be ended.

Arguments: the data folder; `fork` to leave a forked child behind that holds whatever this process holds.
"""

import json
import os
import sys
import time
from pathlib import Path

from cache_pipeline.embedded import EmbeddedServerError, embedded_servers


def main() -> None:
    try:
        with embedded_servers(Path(sys.argv[1])) as servers:
            child = os.fork() if "fork" in sys.argv else None
            if child == 0:
                time.sleep(60)
                os._exit(0)
            said = {"postgres_url": servers.postgres_url, "redis_url": servers.redis_url, "child": child}
            print(json.dumps(said), flush=True)
            sys.stdin.read()
    except EmbeddedServerError as error:
        print(json.dumps({"error": str(error)}), flush=True)
    except KeyboardInterrupt:
        print("stopped in order", flush=True)


main()
