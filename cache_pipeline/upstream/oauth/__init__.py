"""Access tokens of the OAuth clients: one login for all processes, renewed before they expire (G23)."""

from cache_pipeline.upstream.oauth.login import Login, LoginRequest, client_credentials_login
from cache_pipeline.upstream.oauth.shared_tokens import SharedTokens
from cache_pipeline.upstream.oauth.token_source import TokenSource
from cache_pipeline.upstream.oauth.token_store import LocalTokens, TokenStore

__all__ = [
    "LocalTokens",
    "Login",
    "LoginRequest",
    "SharedTokens",
    "TokenSource",
    "TokenStore",
    "client_credentials_login",
]
