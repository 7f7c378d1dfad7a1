"""The measures of Genesys Cloud, as its own views define them (docs/measures.md has the sources).

The vendor counts a time in the interval in which it ends, so these are its figures too.
"""

from __future__ import annotations

from collections.abc import Mapping

from cache_pipeline.query.measures import Measure

_ROUTING = "t_agent_routing_status"


def _average(metric: str, label: str, description: str, better: int = 0) -> Measure:
    return Measure.duration(f"{metric}_sum / {metric}_count", label, description, better)


MEASURES: Mapping[str, Measure] = {
    "offered": Measure.count("n_offered", "Offered", "interactions offered to a queue"),
    "answered": Measure.count("t_answered_count", "Answered", "interactions that an agent answered"),
    "handled": Measure.count("t_handle_count", "Handled", "interactions that an agent handled"),
    "abandoned": Measure.count(
        "t_abandon_count", "Abandoned", "interactions that ended in a queue before an agent answered", -1
    ),
    "abandon_rate": Measure.share(
        "t_abandon_count / n_offered", "Abandon rate", "abandoned, as a share of offered", -1
    ),
    "service_level": Measure.share(
        "o_service_level_numerator / o_service_level_denominator",
        "Service level",
        "answered within the target, as a share of what the organisation's settings count",
        1,
    ),
    "average_handle_time": _average(
        "t_handle",
        "Average handle time",
        "talk, hold and after-call work, dialling and contacting included, for each interaction handled",
    ),
    "average_speed_of_answer": _average(
        "t_answered", "Average speed of answer", "wait in a queue until an agent answered, for each answer", -1
    ),
    "average_wait": _average(
        "t_wait", "Average wait", "wait in a queue, answered or not, for each interaction that waited", -1
    ),
    "answer_rate": Measure.share("t_answered_count / n_offered", "Answer rate", "answered, as a share of offered", 1),
    "transferred": Measure.count("n_transferred", "Transferred", "interactions that an agent transferred", -1),
    "average_talk_time": _average("t_talk_complete", "Average talk time", "talk, for each interaction with talk"),
    "average_hold_time": _average(
        "t_held_complete", "Average hold time", "hold, for each interaction that was on hold", -1
    ),
    "average_after_call_work": _average(
        "t_acw", "Average after-call work", "after-call work, for each interaction with any"
    ),
    "occupancy": Measure.share(
        f"{_ROUTING}_interacting / ({_ROUTING}_interacting + {_ROUTING}_communicating + {_ROUTING}_idle)",
        "Occupancy",
        "time in interactions, as a share of the time on queue",
    ),
}
