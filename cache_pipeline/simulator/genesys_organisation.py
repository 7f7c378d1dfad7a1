"""Facts about the organisation that its clients may read: the limits in force, and how long figures are kept.

Documented: the paths; a limit is `key`, `namespace` and `value`; reading limits needs no permission, reading the retention
`analytics:dataRetention:view`. The simulator's own choices: the names of the namespaces and of the limits in `analytics`, and 404
for a namespace without limits and for an organisation without a retention.
"""

from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cache_pipeline.simulator.errors import not_found
from cache_pipeline.simulator.request_gate import Gate
from cache_pipeline.simulator.state import Simulator

_LIMITS = "/api/v2/organizations/limits/namespaces"
_RETENTION = "/api/v2/analytics/dataretention/settings"


@dataclass(frozen=True)
class OrganisationFacts:
    """The endpoints of limits and retention."""

    simulator: Simulator

    def routes(self, gate: Gate) -> list[Route]:
        """Return the checked routes."""
        return [
            gate.route("GET", f"{_LIMITS}/{{namespace}}", "limits", self._limits),
            gate.route("GET", _RETENTION, "retention", self._retention, ["analytics:dataRetention:view"]),
        ]

    async def _limits(self, request: Request) -> Response:
        settings = self.simulator.settings
        values = {
            "platform.api": {
                "client.credentials.token.rate.per.minute": settings.genesys_rate_limit,
                "org.app.user.rate.per.minute": settings.genesys_org_rate_limit,
                "request.bytes.max": settings.max_body_bytes,
            },
            "analytics": {
                "details.jobs.concurrent.access.max": settings.genesys_concurrent_jobs,
                "details.jobs.rate.per.second": settings.genesys_submits_per_second,
            },
        }
        namespace = request.path_params["namespace"]
        if namespace not in values:
            raise not_found(f"There is no namespace [{namespace}]")
        entities = [
            {"key": key, "namespace": namespace, "value": value}
            for key, value in values[namespace].items()
            if value is not None
        ]
        return JSONResponse({"entities": entities})

    async def _retention(self, _request: Request) -> Response:
        days = self.simulator.settings.retention_days
        if days is None:
            raise not_found("No retention is set for this organization")
        return JSONResponse({"retentionDays": days})
