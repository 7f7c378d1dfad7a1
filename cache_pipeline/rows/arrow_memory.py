"""The choice of Arrow's memory allocator for processes that stream more rows than fit in memory."""

from __future__ import annotations

import pyarrow as pa


def use_low_memory_allocator() -> None:
    """Make Arrow return freed memory to the system soon. Call it before any rows are read.

    Arrow's default allocator keeps memory that threads have freed for their next use: fifty megabytes more after a million
    rows.
    """
    if "jemalloc" in pa.supported_memory_backends():
        pa.set_memory_pool(pa.jemalloc_memory_pool())
