"""Names of an account's Redis keys. All are in one slot of a Redis Cluster, so that one script may use several of them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class UpstreamKeys:
    """Keys of the quota, the access tokens and the polls of one account."""

    account: str

    @property
    def round_robin(self) -> str:
        """Credits of the weighted round-robin, by log key."""
        return self._quota("round_robin")

    @property
    def generation(self) -> str:
        """Identifies the current data; it changes when Redis has lost its data."""
        return self._quota("generation")

    @property
    def cold_start(self) -> str:
        """Since when earlier requests are not known, and whether data was certainly lost; exists for one window."""
        return self._quota("cold_start")

    @property
    def organisation_log(self) -> str:
        """The requests of all clients that still count against the organisation's limit."""
        return self._quota("organisation:log")

    @property
    def organisation_state(self) -> str:
        """The organisation's limit, once a refusal has named it, and until when it is reached."""
        return self._quota("organisation:state")

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
        return f"cache_pipeline:polling:{{{self.account}}}:{kind}"

    def _quota(self, name: str) -> str:
        return f"cache_pipeline:quota:{{{self.account}}}:{name}"

    def _oauth(self, name: str) -> str:
        return f"cache_pipeline:oauth:{{{self.account}}}:{name}"
