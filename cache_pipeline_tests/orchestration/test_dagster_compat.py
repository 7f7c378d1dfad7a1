"""Tests of the private parts of Dagster that `dagster_compat` relies on: each names what an upgrade may have changed."""

import dagster as dg
import pytest
from dagster._core.definitions.target import AutomationTarget

from cache_pipeline.orchestration.dagster_compat import over_named_jobs


@dg.op
def nothing() -> None: ...


@dg.job
def first() -> None:
    nothing()


@dg.job
def second() -> None:
    nothing()


def _sensor() -> dg.SensorDefinition:
    @dg.sensor(name="launcher", jobs=())
    def launcher() -> dg.RunRequest:
        return dg.RunRequest(run_key="1", job_name="second")

    return over_named_jobs(launcher, ["first", "second"])


def test_sensor_keeps_its_targets_in_a_private_list() -> None:
    @dg.sensor(name="plain", job=first)
    def plain() -> None: ...

    assert [target.job_name for target in vars(plain)["_targets"]] == ["first"], (
        "over_named_jobs fills SensorDefinition._targets; Dagster has renamed it"
    )
    assert vars(_sensor())["_targets"] == [AutomationTarget("first"), AutomationTarget("second")]
    assert [target.job_name for target in _sensor().targets] == ["first", "second"]


def test_sensor_launches_jobs_of_other_definitions() -> None:
    defs = dg.Definitions.merge(dg.Definitions(sensors=[_sensor()]), dg.Definitions(jobs=[first, second]))
    dg.Definitions.validate_loadable(defs)
    repository = defs.get_repository_def()
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_sensor_context(instance=instance, repository_def=repository)
        (request,) = repository.get_sensor_def("launcher").evaluate_tick(context).run_requests or []
    assert request.job_name == "second"


def test_sensor_survives_a_copy_with_attributes() -> None:
    """Components copy every definition that they load, to say where it was defined."""
    sensor = _sensor()
    assert [target.job_name for target in sensor.with_attributes(metadata={}).targets] == ["first", "second"]


def test_sensor_over_an_unknown_job_is_refused() -> None:
    defs = dg.Definitions(sensors=[_sensor()], jobs=[first])
    with pytest.raises(dg.DagsterInvalidDefinitionError):
        dg.Definitions.validate_loadable(defs)
