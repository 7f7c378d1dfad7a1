"""A bare Dagster project: as many assets, checks, jobs, schedules and sensors as our reports have, all without content.

Runs as ``python -m benchmarks.scale.bare COUNT`` in a new process, and prints the seconds of processor time that loading it took.
"""

import sys
import time
from collections.abc import Iterator
from typing import Any


def main(count: int) -> None:
    """Load a project with as many groups of definitions as reports."""
    started = time.process_time()
    import dagster as dg

    groups = [f"report_{number:04}" for number in range(count)]
    assets: list[dg.AssetsDefinition] = []
    checks: list[dg.AssetChecksDefinition] = []
    jobs: list[Any] = []
    schedules: list[dg.ScheduleDefinition] = []
    sensors: list[dg.SensorDefinition] = []
    for group in groups:
        partitions = dg.DailyPartitionsDefinition(start_date="2024-01-01")
        keys = [dg.AssetKey([group, layer]) for layer in ("staged", "history", "hot", "edge")]
        for key, upstream in zip(keys, ([], keys[:1], keys[1:2], keys[1:2]), strict=True):

            @dg.asset(key=key, deps=upstream, group_name=group, partitions_def=partitions)
            def asset() -> None: ...

            assets.append(asset)
        for key, names in ((keys[0], ("completeness", "schema", "watermark")), (keys[1], ("drift", "open", "agree"))):

            @dg.multi_asset_check(
                name=f"{group}_{key.path[-1]}", specs=[dg.AssetCheckSpec(name, asset=key) for name in names]
            )
            def check() -> Iterator[dg.AssetCheckResult]:
                yield from ()

            checks.append(check)
        selection = dg.AssetSelection.assets(*keys)
        job = dg.define_asset_job(f"{group}_job", selection=selection)
        jobs.append(job)

        @dg.schedule(name=f"{group}_schedule", job=job, cron_schedule="15 0 * * *")
        def schedule() -> dg.SkipReason:
            return dg.SkipReason("nothing to do")

        @dg.sensor(name=f"{group}_sensor", job=job)
        def sensor() -> dg.SkipReason:
            return dg.SkipReason("nothing to do")

        schedules.append(schedule)
        sensors.append(sensor)
    defs = dg.Definitions(assets=assets, asset_checks=checks, jobs=jobs, schedules=schedules, sensors=sensors)
    defs.get_repository_def().load_all_definitions()
    print(time.process_time() - started)


if __name__ == "__main__":
    main(int(sys.argv[1]))
