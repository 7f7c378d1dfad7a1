"""The measures of the report-data API; its columns are totals of the queue's interactions (docs/measures.md)."""

from __future__ import annotations

from collections.abc import Mapping

from cache_pipeline.query.measures import Measure

MEASURES: Mapping[str, Measure] = {
    # The columns themselves, for those who show measures only.
    "offered": Measure.count("offered", "Offered", "interactions offered to a queue"),
    "answered": Measure.count("answered", "Answered", "interactions that an agent answered"),
    "abandoned": Measure.count(
        "abandoned", "Abandoned", "interactions that ended in a queue before an agent answered", -1
    ),
    "abandon_rate": Measure.share("abandoned / offered", "Abandon rate", "abandoned, as a share of offered", -1),
    "service_level": Measure.share(
        "answered_within_target / (answered + abandoned)",
        "Service level",
        "answered within the target, as a share of answered and abandoned",
        1,
    ),
    "average_handle_time": Measure.duration(
        "handle_ms / answered", "Average handle time", "talk, hold and after-call work, for each interaction answered"
    ),
    "average_speed_of_answer": Measure.duration(
        "wait_ms / answered",
        "Average speed of answer",
        "wait until an agent answered, for each interaction answered",
        -1,
    ),
    "answer_rate": Measure.share("answered / offered", "Answer rate", "answered, as a share of offered", 1),
    "transfer_rate": Measure.share(
        "transferred / answered", "Transfer rate", "transferred, as a share of answered", -1
    ),
    "transferred": Measure.count("transferred", "Transferred", "interactions that an agent transferred", -1),
    "average_talk_time": Measure.duration(
        "talk_ms / answered", "Average talk time", "talk, for each interaction answered"
    ),
    "average_after_call_work": Measure.duration(
        "acw_ms / answered", "Average after-call work", "after-call work, for each interaction answered"
    ),
}
