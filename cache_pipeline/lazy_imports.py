"""Where the package imports Arrow and NumPy, at their first use: they take a quarter of a second and 50 MB.

The first use also sets Arrow's allocator for the whole process. The client and the simulator import the libraries themselves.
Use them as ``from cache_pipeline.lazy_imports import pa``; type checkers see the libraries themselves.
"""

from functools import cache
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

__all__ = ["LazyModule", "ipc", "np", "pa", "pc", "pq"]


class LazyModule(ModuleType):
    """A module that is imported when one of its attributes is first read."""

    def __getattr__(self, name: str) -> object:
        if self.__name__.startswith("pyarrow"):
            _use_low_memory_allocator()
        value = getattr(import_module(self.__name__), name)
        setattr(self, name, value)
        return value


if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq
    from pyarrow import ipc
else:
    np, pa, pc = (LazyModule(name) for name in ("numpy", "pyarrow", "pyarrow.compute"))
    pq, ipc = LazyModule("pyarrow.parquet"), LazyModule("pyarrow.ipc")


@cache
def _use_low_memory_allocator() -> None:
    """Make Arrow return freed memory to the system soon.

    Arrow's default allocator keeps memory that threads have freed for their next use: fifty megabytes more after a million
    rows.
    """
    arrow = import_module("pyarrow")
    if "jemalloc" in arrow.supported_memory_backends():
        arrow.set_memory_pool(arrow.jemalloc_memory_pool())
