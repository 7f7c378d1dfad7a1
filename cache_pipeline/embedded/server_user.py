"""Choose the user that the servers run as: PostgreSQL refuses to run as root, so root runs both as an unprivileged user."""

import os
import pwd
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from cache_pipeline.embedded.errors import EmbeddedServerError


class PopenArguments(TypedDict, total=False):
    """The arguments with which `subprocess.Popen` runs a child as another user; empty for our own user."""

    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True)
class Identity:
    """A user that root runs the servers as."""

    name: str
    uid: int
    gid: int

    def chown(self, path: Path) -> None:
        """Make this user the owner of a file or folder."""
        os.chown(path, self.uid, self.gid, follow_symlinks=False)


def popen_arguments(identity: Identity | None) -> PopenArguments:
    """Return the arguments with which `subprocess.Popen` runs a child as this user, without root's groups."""
    return {"user": identity.uid, "group": identity.gid, "extra_groups": []} if identity else {}


def find_server_identity(cluster: Path) -> Identity | None:
    """Return the user for the servers, or None if they run as our own user.

    Args:
        cluster: The database cluster's folder; if it already exists, its owner remains the servers' user.

    Raises:
        EmbeddedServerError: We are root and there is no user to run the servers as.
    """
    if os.geteuid() != 0:
        return None
    owner = cluster.stat().st_uid if cluster.exists() else 0
    try:
        user = pwd.getpwuid(owner) if owner else pwd.getpwnam("nobody")
    except KeyError:
        missing = f"the owner of {cluster}, uid {owner}," if owner else "the user nobody"
        raise EmbeddedServerError(
            f"PostgreSQL refuses to run as root, and {missing} does not exist on this machine. "
            "Run as a user who is not root, or set CACHE_PIPELINE_POSTGRES_URL and CACHE_PIPELINE_REDIS_URL."
        ) from None
    return Identity(user.pw_name, user.pw_uid, user.pw_gid)
