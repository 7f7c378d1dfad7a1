"""The exceptions of a Redis command that mean that Redis is unavailable, for `storage` and `upstream` alike."""

from redis.exceptions import RedisError

#: Failures of Redis itself, of the network, or a timeout.
REDIS_ERRORS = (RedisError, OSError, TimeoutError)
