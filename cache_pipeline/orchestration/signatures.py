"""Functions that carry their signature, as PEP 362 lets them.

Dagster asks for the signature of a step's function some seventeen times, which was a tenth of what a code location of many
reports took to load.
"""

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


def signed(function: Function) -> Function:
    """The function, which from now on needs not be looked at again for its signature."""
    vars(function)["__signature__"] = inspect.signature(function)
    return function
