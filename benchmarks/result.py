"""What a benchmark says: rows of ours, the peers and the limit; ratio and verdict follow from what was measured."""

import json
import operator
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

Tell = Callable[[str], None]
"""Hears what a benchmark is doing just now, for people who wait."""

Relation = Literal[">=", "<=", "="]
_HOLDS: Mapping[Relation, Callable[[float, float], bool]] = MappingProxyType(
    {">=": operator.ge, "<=": operator.le, "=": operator.eq}
)


class BenchmarkError(RuntimeError):
    """A benchmark could not be run, or its figures contradict each other; nothing of it is reported."""


@dataclass(frozen=True)
class Target:
    """A bound that must hold for a row's `ours` or for its `ratio`."""

    of: Literal["ours", "ratio"]
    relation: Relation
    value: float

    def __str__(self) -> str:
        return f"{self.of} {self.relation} {self.value:g}"

    def is_met(self, row: "Row") -> bool:
        """Whether the row keeps it; a ratio that there is not does not."""
        measured = row.ours if self.of == "ours" else row.ratio
        return measured is not None and _HOLDS[self.relation](measured, self.value)


@dataclass(frozen=True)
class Row:
    """One thing measured.

    Attributes:
        what: The thing, in words.
        ours: This project's figure.
        unit: Of `ours`, the peers' figures and the limit.
        peers: Peer to its figure.
        limit: The best there could be, if that is known.
        target: What must hold, if anything must.
    """

    what: str
    ours: float
    unit: str
    peers: Mapping[str, float] = field(default_factory=dict[str, float])
    limit: float | None = None
    target: Target | None = None

    @property
    def ratio(self) -> float | None:
        """`ours` ÷ the limit or, where none is known, ÷ the figure of the only peer; None where that cannot be said."""
        divisor = self.limit if self.limit is not None else next(iter(self.peers.values()), None)
        only = self.limit is not None or len(self.peers) == 1
        return self.ours / divisor if divisor and only else None

    @property
    def met(self) -> bool | None:
        """Whether the target holds; None where there is none."""
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
    """What one benchmark measured."""

    name: str
    rows: tuple[Row, ...]

    @property
    def missed(self) -> bool:
        """Whether a row's target does not hold."""
        return any(row.met is False for row in self.rows)

    def write(self, folder: Path) -> Path:
        """Write `<name>.json` into the folder, and return its path."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.name}.json"
        body = {"name": self.name, "machine": machine(), "rows": [row.as_json() for row in self.rows]}
        path.write_text(json.dumps(body, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return path


def machine() -> dict[str, Any]:
    """Return what figures depend on, and nothing that identifies one machine of its kind."""
    return {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "os": f"{platform.system()} {platform.machine()}",
    }
