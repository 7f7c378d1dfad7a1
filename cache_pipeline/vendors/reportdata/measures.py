"""The measures of the report-data API; its columns are totals of the queue's interactions (docs/measures.md)."""

from __future__ import annotations

from collections.abc import Mapping

from cache_pipeline.query.measures import Measure

MEASURES: Mapping[str, Measure] = {
    # The columns themselves, for those who show measures only.
    "offered": Measure(formula="offered", kind="count", label="Offered", description="interactions offered to a queue"),
    "answered": Measure(
        formula="answered", kind="count", label="Answered", description="interactions that an agent answered"
    ),
    "abandoned": Measure(
        formula="abandoned",
        kind="count",
        label="Abandoned",
        description="interactions that ended in a queue before an agent answered",
        better=-1,
    ),
    "abandon_rate": Measure(
        formula="abandoned / offered",
        kind="share",
        label="Abandon rate",
        description="abandoned, as a share of offered",
        better=-1,
    ),
    "service_level": Measure(
        formula="answered_within_target / (answered + abandoned)",
        kind="share",
        label="Service level",
        description="answered within the target, as a share of answered and abandoned",
        better=1,
    ),
    "average_handle_time": Measure(
        formula="handle_ms / answered",
        kind="duration",
        label="Average handle time",
        description="talk, hold and after-call work, for each interaction answered",
    ),
    "average_speed_of_answer": Measure(
        formula="wait_ms / answered",
        kind="duration",
        label="Average speed of answer",
        description="wait until an agent answered, for each interaction answered",
        better=-1,
    ),
    "answer_rate": Measure(
        formula="answered / offered",
        kind="share",
        label="Answer rate",
        description="answered, as a share of offered",
        better=1,
    ),
    "transfer_rate": Measure(
        formula="transferred / answered",
        kind="share",
        label="Transfer rate",
        description="transferred, as a share of answered",
        better=-1,
    ),
    "transferred": Measure(
        formula="transferred",
        kind="count",
        label="Transferred",
        description="interactions that an agent transferred",
        better=-1,
    ),
    "average_talk_time": Measure(
        formula="talk_ms / answered",
        kind="duration",
        label="Average talk time",
        description="talk, for each interaction answered",
    ),
    "average_after_call_work": Measure(
        formula="acw_ms / answered",
        kind="duration",
        label="Average after-call work",
        description="after-call work, for each interaction answered",
    ),
}
