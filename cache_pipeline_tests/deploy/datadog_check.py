"""Run Datadog's own OpenMetrics check once with a configuration, and print what it would send, as JSON.

Usage: python datadog_check.py CONFIGURATION ENDPOINT

It runs in an environment of its own, because `datadog-checks-base` conflicts with this project's dependencies, and imports
nothing of this project. The package's own stub takes the place of the Agent.
"""

import json
import sys
from pathlib import Path

import yaml
from datadog_checks.base import OpenMetricsBaseCheckV2
from datadog_checks.base.stubs import aggregator

configuration = yaml.safe_load(Path(sys.argv[1]).read_text(encoding="utf-8"))
(instance,) = configuration["instances"]
instance["openmetrics_endpoint"] = sys.argv[2]
check = OpenMetricsBaseCheckV2("openmetrics", configuration["init_config"] or {}, [instance])
error = check.run()
if error:
    sys.exit(error)
sent = {
    name: [{"value": each.value, "tags": sorted(each.tags)} for each in aggregator.metrics(name)]
    for name in aggregator.metric_names
}
json.dump(
    {"metrics": sent, "up": [each.status for each in aggregator.service_checks("cache_pipeline.openmetrics.health")]},
    sys.stdout,
)
