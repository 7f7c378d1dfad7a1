"""Only the vendors' own packages and the simulator name a vendor."""

import re
from pathlib import Path

import cache_pipeline
from cache_pipeline.vendors import registry
from cache_pipeline.vendors.definitions import DIMENSIONS, METRICS
from cache_pipeline.vendors.registry import find_vendor, vendor_names

PACKAGE = Path(cache_pipeline.__file__).parent
#: Names of vendors, of their products, hosts and headers.
NAMES = re.compile(
    r"genesys|purecloud|pure\.cloud|\binin-|cxone|incontact|\bNICE\b|reportdata|report-data|contextId|timeGrouping|reportId|"
    r"dataAvailabilityDate",
    re.IGNORECASE,
)
#: The files of a new project, which name an example of a vendor as `reports/` and `deploy/` do.
TEMPLATE = PACKAGE / "cli" / "new_project"
#: The names of the simulated centre's queues, for the demo's page.
DEMO = PACKAGE / "cli" / "demo_page.py"
#: Text files of the package, beside its Python modules.
SUFFIXES = (".py", ".yaml", ".html", ".js", ".lua", ".sql", ".ini", ".mako")


def _words() -> re.Pattern[str]:
    """Return what matches the metrics, dimensions and kinds of rows of the vendors; plain words such as `direction` do not."""
    vendors = [find_vendor(name) for name in vendor_names()]
    names = {
        *METRICS,
        *DIMENSIONS,
        *(name for vendor in vendors for name in vendor.personal_dimensions),
        *(
            name
            for vendor in vendors
            for rules in vendor.rows.values()
            for name in (*rules.key, *rules.edge_dimensions)
        ),
    }
    return re.compile(rf"\b({'|'.join(sorted(name for name in names if name != name.lower()))})\b")


def test_nothing_outside_the_vendors_and_the_simulator_uses_a_vendors_words() -> None:
    registry_file, words = Path(registry.__file__), _words()
    found = [
        f"{path.relative_to(PACKAGE)}:{number}: {line.strip()}"
        for path in sorted(PACKAGE.rglob("*"))
        if path.suffix in SUFFIXES
        and path.relative_to(PACKAGE).parts[0] != "simulator"
        and (path.relative_to(PACKAGE).parts[0] != "vendors" or path.parent == PACKAGE / "vendors")
        and path not in (registry_file, DEMO)
        and TEMPLATE not in path.parents
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if NAMES.search(line) or (path.parent != PACKAGE / "vendors" and words.search(line))
    ]
    assert found == []
