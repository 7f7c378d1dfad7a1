"""What one look at one thing found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class CheckStatus(StrEnum):
    """How a thing stands: fit, fit with a reservation, or not fit to run on."""

    ok = "ok"
    warning = "warning"
    failed = "failed"


@dataclass(frozen=True)
class CheckResult:
    """One thing that was looked at.

    Attributes:
        subject: what was looked at, in a word or two.
        status: how it stands.
        detail: what was seen; never a secret.
        remedy: what to do about it, empty where nothing needs to be done.
    """

    subject: str
    status: CheckStatus
    detail: str
    remedy: str = ""
