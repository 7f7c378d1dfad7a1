"""Registers published files in a DuckLake catalogue and queries it, in a process that has the duckdb of the extension's package.

It reads one JSON document a line, `{"register": folder, "catalog": url}` or `{"query": sql, "attach": catalogue}`, and answers each
with one.
"""

import json
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import duckdb

from cache_pipeline.errors import EdgeStoreError
from cache_pipeline.storage.published import EdgeTier
from cache_pipeline.storage.published.ducklake import DuckLakeCatalog


def register_files(folder: str, catalog: str) -> object:
    edge = EdgeTier(f"file://{folder}", lambda: datetime.now(UTC))
    lake = DuckLakeCatalog(catalog, f"file://{folder}", "cache_pipeline")
    try:
        return [asdict(each) for each in lake.register(edge, f"file://{folder}/v1/default")]
    except EdgeStoreError as error:
        return str(error)


def query(connection: duckdb.DuckDBPyConnection, sql: str, attach: str) -> object:
    connection.execute(f"ATTACH '{attach}' AS lake (READ_ONLY)")
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.execute("DETACH lake")


def main() -> None:
    extensions = Path(duckdb.__file__).parents[1] / "duckdb_ext" / "extensions"
    # Checking the signatures of the extensions takes most of the time, so all queries have one connection.
    with duckdb.connect(config={"extension_directory": str(extensions)}) as connection:
        for line in sys.stdin:
            document = json.loads(line)
            found = (
                register_files(document["register"], document["catalog"])
                if "register" in document
                else query(connection, document["query"], document["attach"])
            )
            print(json.dumps(found, default=str), flush=True)


if __name__ == "__main__":
    main()
