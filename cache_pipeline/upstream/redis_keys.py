"""Names of an account's Redis keys. All are in one slot of a Redis Cluster, so that one script may use several of them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class UpstreamKeys:
    """Keys of the quota, the access tokens and the polls of one account.

    Attributes:
        scope: What the vendor knows the clients by: accounts that use the same client at the same address share its keys.
        organisation: Tells organisations of the same scope apart; empty if there is only one.
    """

    scope: str
    organisation: str = ""

    @property
    def round_robin(self) -> str:
        """Credits of the weighted round-robin, by log key."""
        return self._shared("round_robin")

    @property
    def generation(self) -> str:
        """Identifies the current data; it changes when Redis has lost its data."""
        return self._shared("generation")

    @property
    def cold_start(self) -> str:
        """Since when earlier requests are not known, and whether data was certainly lost; exists for one window."""
        return self._shared("cold_start")

    @property
    def organisation_log(self) -> str:
        """The requests of all clients that still count against the organisation's limit."""
        return self._shared("organisation:log")

    @property
    def organisation_state(self) -> str:
        """Until when the organisation's limit is reached."""
        return self._shared("organisation:state")

    @property
    def limits(self) -> str:
        """The limits that the vendor has named, by the log of the requests that they count."""
        return self._quota("limits")

    @property
    def facts(self) -> str:
        """The facts that the vendor reports about the organisation."""
        return self._shared("facts")

    @property
    def facts_read(self) -> str:
        """Exists while the vendor need not be asked again for the facts."""
        return self._shared("facts:read")

    @property
    def usage(self) -> str:
        """The requests of the organisation by day, in UTC."""
        return self._shared("usage")

    @property
    def jobs_log(self) -> str:
        """The jobs of the organisation that run."""
        return self._shared("jobs:log")

    @property
    def jobs_state(self) -> str:
        """Until when the organisation's limit of jobs is reached."""
        return self._shared("jobs:state")

    def turns(self, lane: str) -> str:
        """Return the key of the turns of the callers that wait in a lane."""
        return self._shared(f"turns:{lane}")

    def waiting(self, lane: str) -> str:
        """Return the key of who waits in a lane, and for when."""
        return self._shared(f"waiting:{lane}")

    def endpoint_log(self, endpoint: str) -> str:
        """Return the key of the requests to an endpoint that still count, while it has a limit."""
        return self._shared(f"endpoint:{endpoint}:log")

    def endpoint_state(self, endpoint: str) -> str:
        """Return the key of until when the limit of an endpoint is reached."""
        return self._shared(f"endpoint:{endpoint}:state")

    def log(self, client_id: str) -> str:
        """Return the key of a client's requests that still count."""
        return self._quota(f"log:{client_id}")

    def state(self, client_id: str) -> str:
        """Return the key of what the vendor reported about a client, and of its counters."""
        return self._quota(f"state:{client_id}")

    def token(self, client_id: str) -> str:
        """Return the key of a client's sealed access token; it exists as long as the token is valid."""
        return self._oauth(f"token:{client_id}")

    def login(self, client_id: str) -> str:
        """Return the key of the lease of the process that is logging in with a client."""
        return self._oauth(f"login:{client_id}")

    def refused(self, client_id: str) -> str:
        """Return the key of the sealed reason why the login recently refused a client."""
        return self._oauth(f"refused:{client_id}")

    def durations(self, kind: str) -> str:
        """Return the key of how long jobs of one kind took."""
        return f"cache_pipeline:polling:{{{self.scope}}}:{kind}"

    def _shared(self, name: str) -> str:
        return self._quota(f"{self.organisation}:{name}" if self.organisation else name)

    def _quota(self, name: str) -> str:
        return f"cache_pipeline:quota:{{{self.scope}}}:{name}"

    def _oauth(self, name: str) -> str:
        return f"cache_pipeline:oauth:{{{self.scope}}}:{name}"
