"""Logging setup of every process: text for people at a terminal, one JSON object per line for log collectors."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

from pythonjsonlogger.json import JsonFormatter

from cache_pipeline.settings import LogSettings
from cache_pipeline.telemetry.correlation import correlation_id

#: The configured level applies to our loggers only. Libraries always log from WARNING on.
_OWN_LOGGER = "cache_pipeline"


class _StderrHandler(logging.StreamHandler[TextIO]):
    """A handler that writes to the current standard error. Its own class lets a second setup replace the first."""

    def __init__(self, stream: TextIO | None) -> None:
        logging.Handler.__init__(self)
        self._fixed_stream = stream

    @property
    def stream(self) -> TextIO:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._fixed_stream or sys.stderr


class _JsonFormatter(JsonFormatter):
    def __init__(self, process: str) -> None:
        super().__init__(
            "{levelname}{name}{message}",
            style="{",
            rename_fields={"levelname": "level", "name": "logger"},
            static_fields={"process": process},
            json_ensure_ascii=False,
        )

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        super().add_fields(log_data, record, message_dict)
        log_data["time"] = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        log_data.setdefault("correlation_id", correlation_id())


class _TextFormatter(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        current_id = correlation_id()
        return super().formatMessage(record) + (f" [{current_id}]" if current_id else "")


def set_up_logs(settings: LogSettings, process: str, stream: TextIO | None = None) -> None:
    """Set up this process's logging.

    Args:
        settings: The format and level.
        process: The name of the process: ``api``, ``worker`` or ``dagster``.
        stream: The stream to write to. The default is standard error.
    """
    handler = _StderrHandler(stream)
    as_json = settings.format == "json" or (settings.format == "auto" and not handler.stream.isatty())
    handler.setFormatter(_JsonFormatter(process) if as_json else _TextFormatter())
    root = logging.getLogger()
    for old in [each for each in root.handlers if isinstance(each, _StderrHandler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    logging.getLogger(_OWN_LOGGER).setLevel(settings.level or ("INFO" if as_json else "WARNING"))
