"""Valid and invalid calls of every operation of an OpenAPI document, the same in each run."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode


def call_all(document: dict[str, Any], call: Callable[[schemathesis.Case], None], *, max_examples: int) -> None:
    """Make the calls: for each operation and mode at most `max_examples`.

    Args:
        document: The OpenAPI document.
        call: Makes one call, and checks its answer.
        max_examples: How many.
    """
    for found in schemathesis.openapi.from_dict(document).get_all_operations():
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):

            @settings(
                max_examples=max_examples,
                deadline=None,
                database=None,
                derandomize=True,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=found.ok().as_strategy(generation_mode=mode))
            def one(case: schemathesis.Case) -> None:
                call(case)

            # A path without parameters has no invalid requests.
            with suppress(Unsatisfiable):
                one()
