"""Problems raised as exceptions."""

from contextlib import contextmanager

import pytest

from cache_pipeline.api.problems import Problem


@contextmanager
def context():
    yield


def test_problem_passes_unchanged_through_context_manager():
    problem = Problem("unknown-job", 404, "unknown job")
    with pytest.raises(Problem) as raised, context():
        raise problem
    assert raised.value is problem
