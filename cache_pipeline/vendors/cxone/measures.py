"""The measures of extractions of NICE CXone, from the lines of their contacts (docs/measures.md)."""

from __future__ import annotations

from collections.abc import Mapping

from cache_pipeline.query.measures import Measure

MEASURES: Mapping[str, Measure] = {
    "offered": Measure.count("n_offered", "Offered", "contacts offered to a skill"),
    "average_handle_time": Measure.duration(
        "t_handle_sum / t_handle_count", "Average handle time", "time of agents, for each contact handled"
    ),
    "average_talk_time": Measure.duration(
        "t_talk_sum / t_talk_count", "Average talk time", "talk, for each contact with talk"
    ),
}
