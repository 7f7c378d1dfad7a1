"""Requests to export, change or delete a person's data, page by page. `POST /simulator/gdpr-requests` adds one.

The vendor documents the path, its permission, the types and states, the fields of a subject, and those of a page: `entities`,
`pageSize`, `pageNumber`, `total`, `pageCount` and addresses of other pages. The simulator's choices: requests are in the order in
which they were added, and a page holds 25 by default and at most 500.
"""

from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cache_pipeline.simulator.errors import bad_request
from cache_pipeline.simulator.gdpr_requests import GDPR_PATH, GdprRequests
from cache_pipeline.simulator.genesys_lookups import numbered_page
from cache_pipeline.simulator.request_gate import Gate


@dataclass(frozen=True)
class GdprListing:
    """The endpoint that lists them."""

    requests: GdprRequests

    def routes(self, gate: Gate) -> list[Route]:
        """Return the checked route."""
        return [gate.route("GET", GDPR_PATH, "lookup", self._list, ("gdpr:request:view",))]

    async def _list(self, request: Request) -> Response:
        parameters = dict(request.query_params)
        for name in parameters:
            if name not in ("pageSize", "pageNumber"):
                raise bad_request(f"{name} is unknown")
        return JSONResponse(numbered_page(GDPR_PATH, self.requests.all(), parameters))
