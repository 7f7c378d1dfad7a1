"""Problems as exceptions."""

from contextlib import contextmanager

import pytest

from cache_pipeline.api.problems import Problem


@contextmanager
def anything():
    yield


def test_a_problem_passes_unchanged_through_whoever_handles_it():
    problem = Problem("unknown-job", 404, "there is no such job")
    with pytest.raises(Problem) as raised, anything():
        raise problem
    assert raised.value is problem
