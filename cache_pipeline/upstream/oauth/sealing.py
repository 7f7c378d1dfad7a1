"""Encrypts secrets stored in Redis with a key that only holders of the OAuth client's own secret can derive."""

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

    Every holder of that secret could log in anyway, so no other key has to be managed. A rotated secret opens no older text.

    Args:
        secret: The secret of the OAuth client.
        context: What a sealed text belongs to; a text sealed for one client does not open for another.
    """

    def __init__(self, secret: SecretStr, context: Sequence[str]) -> None:
        key = HKDF(SHA256(), length=32, salt=None, info=_PURPOSE).derive(secret.get_secret_value().encode())
        self._cipher = AESGCM(key)
        self._context = tuple(context)

    def seal(self, text: str, *associated: str) -> str:
        """Encrypt a text. `associated` values are stored in the clear beside it, and must be the same to open it."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        encrypted = self._cipher.encrypt(nonce, text.encode(), self._associated_data(associated))
        return base64.b64encode(nonce + encrypted).decode()

    def open(self, sealed: str, *associated: str) -> str | None:
        """Decrypt a sealed text; return None if it belongs to something else, has another secret, or was modified."""
        try:
            raw = base64.b64decode(sealed, validate=True)
            data = self._associated_data(associated)
            return self._cipher.decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], data).decode()
        except (InvalidTag, binascii.Error, ValueError):
            return None

    def _associated_data(self, associated: Sequence[str]) -> bytes:
        return json.dumps([*self._context, *associated]).encode()
