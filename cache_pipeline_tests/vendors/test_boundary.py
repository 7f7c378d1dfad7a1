"""Only the vendors' own packages and the simulator name a vendor."""

import re
from pathlib import Path

import cache_pipeline
from cache_pipeline.vendors import registry

PACKAGE = Path(cache_pipeline.__file__).parent
#: Names of vendors, of their products and hosts.
WORDS = re.compile(r"genesys|purecloud|pure\.cloud|cxone|incontact|\bNICE\b|reportdata|report-data", re.IGNORECASE)
#: The files of a new project, which name an example of a vendor as `reports/` and `deploy/` do.
TEMPLATE = PACKAGE / "cli" / "new_project"
#: Text files of the package, beside its Python modules.
SUFFIXES = (".py", ".yaml", ".html", ".js", ".lua", ".sql", ".ini", ".mako")


def test_nothing_outside_the_vendors_and_the_simulator_names_a_vendor() -> None:
    registry_file = Path(registry.__file__)
    found = [
        f"{path.relative_to(PACKAGE)}:{number}: {line.strip()}"
        for path in sorted(PACKAGE.rglob("*"))
        if path.suffix in SUFFIXES
        and path.relative_to(PACKAGE).parts[0] != "simulator"
        and (path.relative_to(PACKAGE).parts[0] != "vendors" or path.parent == PACKAGE / "vendors")
        and path != registry_file
        and TEMPLATE not in path.parents
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if WORDS.search(line)
    ]
    assert found == []
