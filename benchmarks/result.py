"""Result of a benchmark: measured rows with the peers' figures and the limit, from which ratio and verdict are derived."""

import json
import operator
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

ProgressCallback = Callable[[str], None]
"""Called with what the benchmark is doing at the moment, to show progress."""

Relation = Literal[">=", "<=", "="]
_HOLDS: Mapping[Relation, Callable[[float, float], bool]] = MappingProxyType(
    {">=": operator.ge, "<=": operator.le, "=": operator.eq}
)


class BenchmarkError(RuntimeError):
    """A benchmark could not run, or its figures contradict each other. None of them is reported."""


@dataclass(frozen=True)
class Target:
    """A bound that must hold for a row's `ours` or for its `ratio`."""

    of: Literal["ours", "ratio"]
    relation: Relation
    value: float

    def __str__(self) -> str:
        return f"{self.of} {self.relation} {self.value:g}"

    def is_met(self, row: "Row") -> bool:
        """Return whether the row meets the target. A missing ratio does not."""
        measured = row.ours if self.of == "ours" else row.ratio
        return measured is not None and _HOLDS[self.relation](measured, self.value)


@dataclass(frozen=True)
class Row:
    """One measurement.

    Attributes:
        what: What was measured.
        ours: This project's figure.
        unit: Unit of `ours`, the peers' figures and the limit.
        peers: Figure of each peer, by its name.
        limit: The best possible figure, if known.
        target: The target, if there is one.
    """

    what: str
    ours: float
    unit: str
    peers: Mapping[str, float] = field(default_factory=dict[str, float])
    limit: float | None = None
    target: Target | None = None

    @property
    def ratio(self) -> float | None:
        """Return `ours` ÷ the limit or, without a limit, ÷ the only peer's figure. None without either."""
        divisor = self.limit if self.limit is not None else next(iter(self.peers.values()), None)
        only = self.limit is not None or len(self.peers) == 1
        return self.ours / divisor if divisor and only else None

    @property
    def met(self) -> bool | None:
        """Return whether the target is met, or None without a target."""
        return None if self.target is None else self.target.is_met(self)

    def as_json(self) -> dict[str, Any]:
        """Return the row as it is written to the file."""
        return {
            "what": self.what,
            "ours": self.ours,
            "unit": self.unit,
            "peers": dict(self.peers),
            "limit": self.limit,
            "ratio": self.ratio,
            "target": None if self.target is None else str(self.target),
            "met": self.met,
        }


@dataclass(frozen=True)
class Result:
    """The measurements of one benchmark."""

    name: str
    rows: tuple[Row, ...]

    @property
    def missed(self) -> bool:
        """Return whether any row misses its target."""
        return any(row.met is False for row in self.rows)

    def write(self, folder: Path) -> Path:
        """Write `<name>.json` into the folder and return its path."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.name}.json"
        body = {"name": self.name, "machine": describe_machine(), "rows": [row.as_json() for row in self.rows]}
        path.write_text(json.dumps(body, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return path


def describe_machine() -> dict[str, Any]:
    """Return what the figures depend on, without anything that identifies this machine."""
    return {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "os": f"{platform.system()} {platform.machine()}",
    }
