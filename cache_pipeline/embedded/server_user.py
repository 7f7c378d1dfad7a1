"""Which user the servers run as: PostgreSQL refuses to run as root, so root runs both as a user with no rights."""

import os
import pwd
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from cache_pipeline.embedded.errors import EmbeddedServerError


class PopenArguments(TypedDict, total=False):
    """The arguments of `subprocess.Popen` that make a child another user's; none for a child of our own."""

    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True)
class Identity:
    """A user that root runs the servers as."""

    name: str
    uid: int
    gid: int

    def give(self, path: Path) -> None:
        """Make the file or folder at `path` this user's."""
        os.chown(path, self.uid, self.gid, follow_symlinks=False)


def popen_arguments(identity: Identity | None) -> PopenArguments:
    """What `subprocess.Popen` needs to run a child as this user, without the groups of root."""
    return {"user": identity.uid, "group": identity.gid, "extra_groups": []} if identity else {}


def server_identity(cluster: Path) -> Identity | None:
    """The user for the servers, None where they run as whoever we are.

    Args:
        cluster: the database cluster's folder; where it exists already, its owner goes on owning it.

    Raises:
        EmbeddedServerError: we are root and there is no user to run them as.
    """
    if os.geteuid() != 0:
        return None
    owner = cluster.stat().st_uid if cluster.exists() else 0
    try:
        user = pwd.getpwuid(owner) if owner else pwd.getpwnam("nobody")
    except KeyError:
        missing = f"the owner of {cluster}, uid {owner}," if owner else "the user nobody"
        raise EmbeddedServerError(
            f"PostgreSQL refuses to run as root, and {missing} is not known on this machine. "
            "Run as a user who is not root, or set CACHE_PIPELINE_POSTGRES_URL and CACHE_PIPELINE_REDIS_URL."
        ) from None
    return Identity(user.pw_name, user.pw_uid, user.pw_gid)
