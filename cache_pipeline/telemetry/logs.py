"""Log lines of our processes: text for people at a terminal, one JSON object a line for whatever collects them."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

from pythonjsonlogger.json import JsonFormatter

from cache_pipeline.settings import LogSettings
from cache_pipeline.telemetry.correlation import correlation_id

#: Ours and the server's; libraries are heard from WARNING on, whatever the level.
_OWN = "cache_pipeline"


class _Ours(logging.StreamHandler[TextIO]):
    """Writes to the standard error of the moment; a class of its own, so that setting up twice is setting up once."""

    def __init__(self, stream: TextIO | None) -> None:
        logging.Handler.__init__(self)
        self._given = stream

    @property
    def stream(self) -> TextIO:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._given or sys.stderr


class _JsonLines(JsonFormatter):
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


class _Text(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        name = correlation_id()
        return super().formatMessage(record) + (f" [{name}]" if name else "")


def set_up_logs(settings: LogSettings, process: str, stream: TextIO | None = None) -> None:
    """Have this process's log lines written.

    Args:
        settings: how.
        process: what it is: ``gateway``, ``worker`` or ``dagster``.
        stream: where to; by default standard error.
    """
    handler = _Ours(stream)
    as_json = settings.format == "json" or (settings.format == "auto" and not handler.stream.isatty())
    handler.setFormatter(_JsonLines(process) if as_json else _Text())
    root = logging.getLogger()
    for old in [each for each in root.handlers if isinstance(each, _Ours)]:
        root.removeHandler(old)
    root.addHandler(handler)
    logging.getLogger(_OWN).setLevel(settings.level or ("INFO" if as_json else "WARNING"))
