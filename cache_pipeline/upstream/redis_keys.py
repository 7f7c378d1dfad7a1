"""The names of a platform's keys in Redis. All lie in one slot of a Redis Cluster, so that one script may touch several."""

from dataclasses import dataclass


@dataclass(frozen=True)
class UpstreamKeys:
    """Keys of the quota, the access tokens and the polls of one platform."""

    platform: str

    @property
    def wheel(self) -> str:
        """Credits of the weighted round-robin, by log."""
        return self._quota("wheel")

    @property
    def generation(self) -> str:
        """Changes when Redis has lost its memory."""
        return self._quota("generation")

    @property
    def careful(self) -> str:
        """Since when it is not known what was sent before, and whether memory was lost; for one window."""
        return self._quota("careful")

    def log(self, client_id: str) -> str:
        """The requests of a client that still count."""
        return self._quota(f"log:{client_id}")

    def state(self, client_id: str) -> str:
        """What the vendor said of a client, and its counters."""
        return self._quota(f"state:{client_id}")

    def token(self, client_id: str) -> str:
        """The sealed access token of a client; lives as long as the token."""
        return self._oauth(f"token:{client_id}")

    def login(self, client_id: str) -> str:
        """Who is logging in for a client just now."""
        return self._oauth(f"login:{client_id}")

    def refused(self, client_id: str) -> str:
        """Why the login refused a client lately, sealed."""
        return self._oauth(f"refused:{client_id}")

    def durations(self, kind: str) -> str:
        """How long jobs of one kind took."""
        return f"cache_pipeline:polling:{{{self.platform}}}:{kind}"

    def _quota(self, name: str) -> str:
        return f"cache_pipeline:quota:{{{self.platform}}}:{name}"

    def _oauth(self, name: str) -> str:
        return f"cache_pipeline:oauth:{{{self.platform}}}:{name}"
