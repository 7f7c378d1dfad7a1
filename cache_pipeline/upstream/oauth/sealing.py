"""Secrets at rest in Redis: sealed with a key that only holders of the OAuth client's own secret can derive."""

import base64
import binascii
import json
import secrets
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic import SecretStr

_NONCE_BYTES = 12
_PURPOSE = b"cache_pipeline access token v1"


class Seal:
    """AES-256-GCM under HKDF-SHA256 of the client's secret.

    Whoever can open it could log in anyway, so there is no other key to keep; a rotated secret opens nothing old.

    Args:
        secret: Of the OAuth client.
        bound_to: What a sealed text belongs to; sealed for one client, it does not open for another.
    """

    def __init__(self, secret: SecretStr, bound_to: Sequence[str]) -> None:
        key = HKDF(SHA256(), length=32, salt=None, info=_PURPOSE).derive(secret.get_secret_value().encode())
        self._cipher = AESGCM(key)
        self._bound_to = tuple(bound_to)

    def seal(self, text: str, *told: str) -> str:
        """Seals a text into one that may lie open; `told` stays in the clear beside it, and must be the same to open it."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return base64.b64encode(nonce + self._cipher.encrypt(nonce, text.encode(), self._binding(told))).decode()

    def open(self, sealed: str, *told: str) -> str | None:
        """Opens a sealed text; None if it was sealed for something else, with another secret, or was tampered with."""
        try:
            raw = base64.b64decode(sealed, validate=True)
            return self._cipher.decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], self._binding(told)).decode()
        except (InvalidTag, binascii.Error, ValueError):
            return None

    def _binding(self, told: Sequence[str]) -> bytes:
        return json.dumps([*self._bound_to, *told]).encode()
