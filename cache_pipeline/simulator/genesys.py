"""Routes of the Genesys platform: aggregates of all families, details, observations, notifications, names.

The vendor documents the ErrorBody, the 429, and no header with the remaining quota. Each module lists what is documented and what is
the simulator's choice.
"""

from starlette.routing import BaseRoute

from cache_pipeline.simulator.genesys_aggregates import Aggregates
from cache_pipeline.simulator.genesys_conversations import ConversationDetails
from cache_pipeline.simulator.genesys_families import OTHER_FAMILIES
from cache_pipeline.simulator.genesys_gdpr import GdprListing
from cache_pipeline.simulator.genesys_jobs import JobService
from cache_pipeline.simulator.genesys_lookups import Lookups
from cache_pipeline.simulator.genesys_notifications import Notifications
from cache_pipeline.simulator.genesys_observations import Observations
from cache_pipeline.simulator.genesys_organisation import OrganisationFacts
from cache_pipeline.simulator.genesys_query import CONVERSATIONS, FLOWS
from cache_pipeline.simulator.genesys_users import UserAggregates, UserDetails
from cache_pipeline.simulator.jobs import JobStore
from cache_pipeline.simulator.request_gate import Gate
from cache_pipeline.simulator.state import Simulator


def create_job_service(simulator: Simulator) -> JobService:
    """Return the platform's job service, without jobs."""
    return JobService(simulator, JobStore(simulator.settings.job_lifetime_seconds))


def genesys_routes(job_service: JobService, gate: Gate) -> list[BaseRoute]:
    """Return the checked routes, and one that answers 404 to all other paths of the API."""
    return [
        *(
            route
            for family in (CONVERSATIONS, FLOWS, *OTHER_FAMILIES)
            for route in Aggregates(job_service, family).routes(gate)
        ),
        *UserAggregates(job_service).routes(gate),
        *ConversationDetails(job_service).routes(gate),
        *UserDetails(job_service).routes(gate),
        *Observations(job_service.simulator).routes(gate),
        *Notifications(job_service.simulator).routes(gate),
        *Lookups(job_service.simulator).routes(gate),
        *GdprListing(job_service.simulator.gdpr_requests).routes(gate),
        *OrganisationFacts(job_service.simulator).routes(gate),
        gate.unknown_route("/api/v2/{rest:path}"),
    ]
