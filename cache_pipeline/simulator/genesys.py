"""The vendor's platform: aggregates of all its families, details of conversations and users.

Fixed by the vendor's documents: the ErrorBody, the 429, no header that tells what is left. Each module says of its own part what
is fixed and what is the simulator's choice.
"""

from starlette.routing import Route

from cache_pipeline.simulator.genesys_aggregates import Aggregates
from cache_pipeline.simulator.genesys_conversations import ConversationDetails
from cache_pipeline.simulator.genesys_families import OTHER_FAMILIES
from cache_pipeline.simulator.genesys_jobs import JobDesk
from cache_pipeline.simulator.genesys_query import CONVERSATIONS, FLOWS
from cache_pipeline.simulator.genesys_users import UserAggregates, UserDetails
from cache_pipeline.simulator.jobs import JobStore
from cache_pipeline.simulator.request_gate import Gate
from cache_pipeline.simulator.state import Simulator


def genesys_desk(simulator: Simulator) -> JobDesk:
    """Return the platform's jobs: none yet."""
    return JobDesk(simulator, JobStore(simulator.settings.job_lifetime_seconds))


def genesys_routes(desk: JobDesk, gate: Gate) -> list[Route]:
    """Return the guarded routes, and one that answers 404 to the rest of the API."""
    return [
        *(
            route
            for family in (CONVERSATIONS, FLOWS, *OTHER_FAMILIES)
            for route in Aggregates(desk, family).routes(gate)
        ),
        *UserAggregates(desk).routes(gate),
        *ConversationDetails(desk).routes(gate),
        *UserDetails(desk).routes(gate),
        gate.unknown_route("/api/v2/{rest:path}"),
    ]
