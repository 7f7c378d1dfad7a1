"""The alert rules of deploy/prometheus."""

from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).parents[2]
FOLDER = REPOSITORY / "deploy" / "prometheus"


def groups() -> list[dict[str, Any]]:
    return yaml.safe_load((FOLDER / "rules.yml").read_text())["groups"]


def alerts() -> dict[str, dict[str, Any]]:
    """Return each alert's rule by its name."""
    return {rule["alert"]: rule for group in groups() for rule in group["rules"]}
