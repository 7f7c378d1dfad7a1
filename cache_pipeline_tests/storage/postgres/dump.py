"""Dumps of a PostgreSQL database with its own tools: those beside the embedded server, else the system's."""

import shutil
import subprocess
from pathlib import Path

import pytest

from cache_pipeline.embedded.binaries import find_postgres_wheel


def _program(name: str) -> str:
    beside = Path(find_postgres_wheel().program("postgres")).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def copy_database(source: str, target: str, folder: Path) -> None:
    """Dump one database to a file, and restore it into another, which is empty."""
    dump = folder / "history.sql"
    options = ["--no-owner", "--no-privileges", "--file", str(dump)]
    subprocess.run([_program("pg_dump"), *options, "--dbname", source], check=True, capture_output=True, timeout=120)
    restore = [_program("psql"), "--set", "ON_ERROR_STOP=1", "--quiet", "--single-transaction", "--file", str(dump)]
    subprocess.run([*restore, "--dbname", target], check=True, capture_output=True, timeout=120)
