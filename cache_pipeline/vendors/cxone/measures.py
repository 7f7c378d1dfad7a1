"""The measures of extractions of NICE CXone, from the lines of their contacts (docs/measures.md)."""

from __future__ import annotations

from collections.abc import Mapping

from cache_pipeline.query.measures import Measure

MEASURES: Mapping[str, Measure] = {
    "offered": Measure(formula="n_offered", kind="count", label="Offered", description="contacts offered to a skill"),
    "average_handle_time": Measure(
        formula="t_handle_sum / t_handle_count",
        kind="duration",
        label="Average handle time",
        description="time of agents, for each contact handled",
    ),
    "average_talk_time": Measure(
        formula="t_talk_sum / t_talk_count",
        kind="duration",
        label="Average talk time",
        description="talk, for each contact with talk",
    ),
}
