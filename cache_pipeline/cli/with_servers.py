"""The command ``cache-pipeline with-servers``, which runs any command with embedded servers."""

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import click

from cache_pipeline.cli.child_process import start_bound_child
from cache_pipeline.cli.demo_environment import project_folder
from cache_pipeline.cli.signals import terminated_like_interrupted
from cache_pipeline.embedded import embedded_servers
from cache_pipeline.settings import Settings, read_settings


@click.command("with-servers", context_settings={"ignore_unknown_options": True})
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def with_servers(command: tuple[str, ...]) -> None:
    """Run COMMAND with an embedded PostgreSQL and Valkey, unless their URLs are set."""
    settings = read_settings()
    with terminated_like_interrupted(), _servers(settings) as added:
        environment = {**os.environ, **added}
        if (Path.cwd() / "dagster.yaml").exists():
            environment.setdefault("DAGSTER_HOME", str(project_folder()))
        with start_bound_child(command, environment) as process:
            code = process.wait()
    sys.exit(code)


@contextmanager
def _servers(settings: Settings) -> Generator[dict[str, str]]:
    postgres_url, redis_url = settings.postgres_url, settings.redis_url
    with embedded_servers(
        settings.data_dir / "servers",
        postgres_url=postgres_url.get_secret_value() if postgres_url else None,
        redis_url=redis_url.get_secret_value() if redis_url else None,
    ) as servers:
        yield {
            "CACHE_PIPELINE_POSTGRES_URL": servers.postgres_url,
            "CACHE_PIPELINE_REDIS_URL": servers.redis_url,
        }
