"""The result of one check: what was checked, its status, the detail and the remedy."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class CheckStatus(StrEnum):
    """How one thing is.

    Attributes:
        ok: It works.
        warning: It works, but something should be changed.
        failed: The deployment cannot run with it.
    """

    ok = "ok"
    warning = "warning"
    failed = "failed"


@dataclass(frozen=True)
class CheckResult:
    """What one check found.

    Attributes:
        subject: What was checked, in a word or two.
        status: How it is.
        detail: What was found, with its cause; never a secret.
        remedy: How to fix it; empty if nothing needs to be done.
    """

    subject: str
    status: CheckStatus
    detail: str
    remedy: str = ""
