"""Forgets a person in Redis: every key of ours that names the person, or the entries of it that do.

Answers of a vendor that callers share are compressed, and all of them are deleted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from typing import Any, cast

from redis.asyncio import Redis

from cache_pipeline.query.person import Person
from cache_pipeline.storage.personal_data import Erasure
from cache_pipeline.storage.redis.shared_answers import SHARED_PREFIX

_OURS = ("analytics:", "cache_pipeline:")
_KEYS_PER_ROUND = 500


class RedisPersonalData:
    """The keys of one Redis database."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def forget(self, person: Person) -> AsyncIterator[Erasure]:
        """Forget a person. Keys of others, in a database that is shared, are only counted."""
        removed, left = Counter[str](), Counter[str]()
        async for key in self._redis.scan_iter(count=_KEYS_PER_ROUND):
            name = cast("bytes", key).decode(errors="replace")
            is_ours, place = name.startswith(_OURS), ":".join(name.split(":")[: 1 + name.startswith(_OURS[1])])
            if name.startswith(SHARED_PREFIX):
                removed[place] += await self._redis.delete(key)
            elif person.occurs_in(key):
                if is_ours:
                    removed[place] += await self._redis.delete(key)
                else:
                    left["keys of others"] += 1
            elif is_ours:
                removed[place] += await self._forget_content(key, person)
            elif await self._names(key, person):
                left["keys of others"] += 1
        for place, count in sorted(removed.items()):
            yield Erasure("Redis", f"{place}:*", removed=count)
        for place, count in left.items():
            yield Erasure("Redis", place, left=count, note="these keys are not of cache_pipeline: delete them by hand")

    async def _names(self, key: bytes, person: Person) -> bool:
        _, found = await self._entries(key)
        return any(person.occurs_in(content) for _, content in found)

    async def _forget_content(self, key: bytes, person: Person) -> int:
        """Remove what names the person from a key's value, or the key if it is one text."""
        kind, entries = await self._entries(key)
        found = [entry for entry, content in entries if person.occurs_in(content)]
        if not found:
            return 0
        redis = cast("Any", self._redis)
        match kind:
            case b"hash":
                return await redis.hdel(key, *found)
            case b"set":
                return await redis.srem(key, *found)
            case b"zset":
                return await redis.zrem(key, *found)
            case b"list":
                return sum([await redis.lrem(key, 0, entry) for entry in found])
            case b"stream":
                return await redis.xdel(key, *found)
            case _:
                return await redis.delete(key)

    async def _entries(self, key: bytes) -> tuple[bytes, list[tuple[bytes, bytes]]]:
        """Return the type of a key's value, and each entry of it with its whole content."""
        redis = cast("Any", self._redis)
        kind: bytes = await redis.type(key)
        entries: list[tuple[bytes, bytes]] = []
        match kind:
            case b"string":
                entries = [(key, await redis.get(key) or b"")]
            case b"hash":
                entries = [(field, field + b"\n" + value) for field, value in (await redis.hgetall(key)).items()]
            case b"set":
                entries = [(member, member) for member in await redis.smembers(key)]
            case b"zset":
                entries = [(member, member) for member in await redis.zrange(key, 0, -1)]
            case b"list":
                entries = [(entry, entry) for entry in await redis.lrange(key, 0, -1)]
            case b"stream":
                entries = [
                    (entry, b"\n".join(part for pair in fields.items() for part in pair))
                    for entry, fields in await redis.xrange(key)
                ]
            case _:
                pass
        return kind, entries
