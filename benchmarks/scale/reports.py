"""Cost of many reports in Dagster: loading the code location, and one tick of each sensor over all reports.

Runs as ``python -m benchmarks.scale.reports FOLDER`` in a new process whose environment names the servers and the folder of
declarations. Prints seconds by name as JSON. Where a bare Dagster project is measured beside ours, both are processor time, which
the machine's other work does not lengthen.
"""

import json
import sys
import time
from datetime import date
from pathlib import Path

import yaml

_PARTITION_LENGTHS = ("hour", "day", "week")
#: Sensors that check every report in one tick.
SENSORS = ("incomplete_sensor", "unpublished_sensor", "prefetch_sensor")
#: It examines fifty reports a tick.
OPEN = "open_partitions_sensor"
STALE, SLOWEST = "one tick of every report's stale sensor", "slowest tick of a report's stale sensor"
LOAD, LOAD_CPU = "load", "processor time of loading"


def declare(folder: Path, count: int) -> None:
    """Write declarations of `count` different reports, evenly over three partition lengths and three time zones."""
    folder.mkdir(parents=True)
    for number in range(count):
        declaration = {
            "name": f"report_{number:04}",
            "description": f"Offered and answered by queue, number {number}",
            "platform": "reportdata",
            "query_type": f"queue-performance-{number}",
            "granularity": "PT1H",
            "time_zone": ("UTC", "Europe/Berlin", "America/New_York")[number % 3],
            "group_by": ["queueId", "mediaType"],
            "metrics": ["offered", "answered", "abandoned"],
            "partition": _PARTITION_LENGTHS[number % 3],
            "start": date(2024, 1, 1).isoformat(),
            "fetch": {"expected_groups": 8},
            "freshness": {"prefetch_after_misses": 10},
        }
        (folder / f"report_{number:04}.yaml").write_text(yaml.safe_dump(declaration))


def main(data: Path) -> None:
    """Load the declarations named by the environment, then measure one tick of every sensor."""
    import dagster as dg

    from cache_pipeline.bootstrap.database import migrate_history
    from cache_pipeline.bootstrap.reports import load_reports
    from cache_pipeline.orchestration.resources import EngineResource
    from cache_pipeline.settings import read_settings

    seconds: dict[str, float] = {}
    started, cpu_started = time.perf_counter(), time.process_time()
    # Load as Dagster's code server does: read the declarations, build everything, resolve each job.
    from cache_pipeline.definitions import defs

    repository = defs.get_repository_def()
    repository.load_all_definitions()
    seconds[LOAD], seconds[LOAD_CPU] = time.perf_counter() - started, time.process_time() - cpu_started

    settings = read_settings()
    reports = load_reports(settings)
    migrate_history(settings, reports)
    (data / "staged").mkdir(parents=True, exist_ok=True)
    with dg.DagsterInstance.get() as instance:
        cursors: dict[str, str | None] = {}

        def tick(name: str) -> None:
            with dg.build_sensor_context(
                instance=instance,
                resources={"cache_pipeline__engine": EngineResource()},
                repository_def=repository,
                cursor=cursors.get(name),
            ) as context:
                cursors[name] = repository.get_sensor_def(name).evaluate_tick(context).cursor

        for name in reports:
            instance.report_runless_asset_event(
                dg.AssetCheckEvaluation(
                    asset_key=dg.AssetKey([name, "staged"]),
                    check_name="completeness",
                    passed=True,
                    partition="2024-01-01",
                )
            )
        for name in (*SENSORS, OPEN):
            # The first tick also imports, connects and checks every report for the first time.
            tick(name)
            started = time.perf_counter()
            tick(name)
            seconds[name] = time.perf_counter() - started
        ticks: list[float] = []
        for name in reports:
            started = time.perf_counter()
            tick(f"{name}_stale_sensor")
            ticks.append(time.perf_counter() - started)
        seconds[STALE], seconds[SLOWEST] = sum(ticks), max(ticks)
    print(json.dumps(seconds))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
