"""Writing files whole or not at all."""

from pathlib import Path

from cache_pipeline.errors import CommandError


def write_atomically(path: Path, body: bytes) -> Path:
    """Write a file atomically, and return its absolute path.

    Raises:
        CommandError: The file cannot be written.
    """
    partial = path.with_name(f".{path.name}.part")
    try:
        partial.write_bytes(body)
        partial.replace(path)
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error.strerror}") from error
    return path.resolve()
