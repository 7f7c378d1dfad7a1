"""Idempotency keys: a POST that is sent again follows the same job (draft-ietf-httpapi-idempotency-key-header).

Two equal queries share one job even without a key, because jobs are found by the query's meaning. A key adds two things.
A client that lost its connection and sends the request again after the job has finished still learns how that job ended.
And a key that is reused for a different query is rejected as a mistake. A request need not be refused while the first one
with its key is still being served.
"""

from __future__ import annotations

import re

from cache_pipeline.api.problems import Problem

#: A quoted string of structured fields, as the draft requires; many clients send the bare token.
_KEY_PATTERN = re.compile(r'^(?:"([\x20-\x21\x23-\x5b\x5d-\x7e]{1,255})"|([!#-+\--:<-\[\]-~]{1,255}))$')


def parse_idempotency_key(header: str | None) -> str | None:
    """Return the key that a header holds, or None if there is no header.

    Raises:
        Problem: 400 if the header is neither a quoted string nor a token of at most 255 characters.
    """
    if header is None:
        return None
    found = _KEY_PATTERN.match(header.strip())
    if found is None:
        raise Problem(
            "idempotency-key", 400, "Idempotency-Key must be one quoted string of 1 to 255 printable characters"
        )
    return found[1] or found[2]
