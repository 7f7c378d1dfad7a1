"""The tree of errors, and how each entry point reports them."""

import builtins
import errno
import importlib
import inspect
import pickle
import pkgutil
from collections import defaultdict
from collections.abc import Iterator
from types import ModuleType

import dagster as dg
import psycopg
import pytest
from psycopg_pool import PoolTimeout
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError

import cache_pipeline
from cache_pipeline import errors
from cache_pipeline.api.problems import problem_for
from cache_pipeline.errors import CachePipelineError, DiskUnwritable, InvalidQuery, LoginRefused, UpstreamUnreachable
from cache_pipeline.orchestration.resources import reported_failures
from cache_pipeline.storage.known_errors import known_error

_SEPARATE = ("cache_pipeline.simulator", "cache_pipeline.embedded")
_NOT_IMPORTED = ("cache_pipeline.storage.postgres.migrations",)


def modules() -> Iterator[ModuleType]:
    """Every module of the package that is imported at run time."""
    for found in pkgutil.walk_packages(cache_pipeline.__path__, "cache_pipeline."):
        if not found.name.startswith((*_SEPARATE, *_NOT_IMPORTED)):
            yield importlib.import_module(found.name)


def own_classes(module: ModuleType) -> Iterator[type]:
    """The classes that a module defines itself."""
    for value in vars(module).values():
        if inspect.isclass(value) and value.__module__ == module.__name__:
            yield value


def test_every_error_class_is_under_the_root() -> None:
    found = [each for module in modules() for each in own_classes(module) if issubclass(each, BaseException)]
    assert len(found) > 30
    assert [each for each in found if not issubclass(each, CachePipelineError)] == []


def test_public_class_names_are_unique() -> None:
    places: defaultdict[str, set[str]] = defaultdict(set)
    for module in modules():
        for each in own_classes(module):
            if not each.__name__.startswith("_"):
                places[each.__name__].add(module.__name__)
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def test_tree_drawing_names_every_error_of_its_module() -> None:
    drawn = errors.__doc__ or ""
    assert [
        each.__name__ for each in own_classes(errors) if issubclass(each, Exception) and each.__name__ not in drawn
    ] == []


def test_no_error_shadows_a_builtin() -> None:
    assert [each.__name__ for each in own_classes(errors) if hasattr(builtins, each.__name__)] == []


@pytest.mark.parametrize(
    "error",
    [
        UpstreamUnreachable(host="vendor.example", reason="timed out", attempts=3),
        LoginRefused(client_ids=["one"], login_url="https://login.example", reason="401"),
        DiskUnwritable("/data", "No space left on device", setting="CACHE_PIPELINE_DATA_DIR"),
        InvalidQuery("group_by", "has no such dimension"),
    ],
)
def test_error_survives_pickling(error: CachePipelineError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)


def test_text_holds_cause_and_remedy() -> None:
    assert str(CachePipelineError("it broke", remedy="fix it")) == "it broke; fix it"
    assert str(CachePipelineError("it broke")) == "it broke"


@pytest.mark.parametrize(
    ("error", "retryable", "status"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/data/staged"), True, 503),
        (OSError(errno.EROFS, "Read-only file system"), True, 503),
        (DiskUnwritable("/tmp", "No space left on device", setting="TMPDIR"), True, 503),
        (RedisConnectionError("Error 111 connecting to 10.0.0.1:6379"), True, 503),
        (ReadOnlyError("You can't write against a read only replica."), True, 503),
        (psycopg.OperationalError("connection to server failed"), True, 503),
        (PoolTimeout("no connection in time"), True, 503),
        (InvalidQuery("group_by", "has no such dimension"), False, 422),
        (UpstreamUnreachable(host="vendor.example", reason="timed out"), True, 502),
        (LoginRefused(client_ids=["one"], login_url="https://login.example", reason="401"), False, 502),
    ],
)
def test_api_and_dagster_report_the_same_error_alike(error: Exception, retryable: bool, status: int) -> None:
    problem = problem_for(error)
    assert problem.status == status
    assert (problem.headers.get("Retry-After") == "5") == (retryable and status == 503)
    with pytest.raises(dg.Failure) as raised, reported_failures():
        raise error
    assert raised.value.allow_retries == retryable
    assert raised.value.description == str(known_error(error))


def test_server_addresses_stay_out_of_problems() -> None:
    problem = problem_for(RedisConnectionError("Error 111 connecting to 10.0.0.1:6379"))
    assert "10.0.0.1" not in str(problem.document())
    assert "/data" not in str(problem_for(OSError(errno.ENOSPC, "No space left", "/data/staged")).document())


@pytest.mark.parametrize("error", [OSError(errno.ENOENT, "No such file"), ValueError("a secret"), KeyError("a secret")])
def test_unexpected_error_tells_callers_nothing(error: Exception) -> None:
    problem = problem_for(error)
    assert (problem.kind, problem.status) == ("internal", 500)
    assert "secret" not in problem.detail
    with pytest.raises(type(error)), reported_failures():
        raise error
