"""One request quota for all processes and machines, kept in Redis."""

from cache_pipeline.upstream.quota.allotment import Allotment
from cache_pipeline.upstream.quota.model import ClientQuota, ClientState, Grant, Purpose, QuotaPolicy, SharedLimit

__all__ = ["Allotment", "ClientQuota", "ClientState", "Grant", "Purpose", "QuotaPolicy", "SharedLimit"]
