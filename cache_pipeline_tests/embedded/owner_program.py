"""A program that runs embedded servers, for tests that kill it: it prints their URLs, then waits.

Arguments: the data folder; `fork` to also leave a forked child that inherits all open files of this process.
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
            urls = {"postgres_url": servers.postgres_url, "redis_url": servers.redis_url, "child": child}
            print(json.dumps(urls), flush=True)
            sys.stdin.read()
    except EmbeddedServerError as error:
        print(json.dumps({"error": str(error)}), flush=True)
    except KeyboardInterrupt:
        print("stopped cleanly", flush=True)


main()
