"""The organisation's requests to export, change or delete a person's data, which tests add."""

from threading import Lock
from typing import Any, Literal
from uuid import UUID, uuid5

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

#: The path at which the vendor lists them.
GDPR_PATH = "/api/v2/gdpr/requests"
_IDS = UUID("6f2f3b0e-6a5c-4c1e-9d0b-3a1e5d7c8b21")


class Subject(BaseModel):
    """The person of a request."""

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel)

    name: str | None = None
    user_id: str | None = None
    external_contact_id: str | None = None
    external_id: str | None = None
    addresses: tuple[str, ...] = ()
    phone_numbers: tuple[str, ...] = ()
    email_addresses: tuple[str, ...] = ()


class GdprRequest(BaseModel):
    """The body of `POST /simulator/gdpr-requests`."""

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel)

    request_type: Literal["GDPR_EXPORT", "GDPR_UPDATE", "GDPR_DELETE"] = "GDPR_DELETE"
    status: Literal["INITIATED", "SEARCHING", "UPDATING", "DELETING", "COMPLETED", "ERROR", "FINALIZING"] = "COMPLETED"
    subject: Subject = Field(default_factory=Subject)


class GdprRequests:
    """All requests of the organisation. Thread-safe."""

    def __init__(self) -> None:
        self._requests: list[dict[str, Any]] = []
        self._lock = Lock()

    def add(self, request: GdprRequest, created: str) -> str:
        """Add a request, and return its id."""
        with self._lock:
            name = str(uuid5(_IDS, str(len(self._requests))))
            body = request.model_dump(mode="json", by_alias=True, exclude_defaults=True, include={"subject"})
            entity = {
                "id": name,
                "subject": {},
                **body,
                "requestType": request.request_type,
                "status": request.status,
                "createdDate": created,
                "selfUri": f"{GDPR_PATH}/{name}",
            }
            self._requests.append(entity)
            return name

    def all(self) -> list[dict[str, Any]]:
        """Return all requests."""
        with self._lock:
            return [*self._requests]
