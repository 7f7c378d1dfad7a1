"""Metrics of Genesys aggregates: the columns of each metric, by the statistics that the vendor reports for it.

The first letter of a name gives its kind: n* are counts, t* durations in milliseconds, o* observations of some value. Service
levels are observations whose parts add up; the other observations have whatever statistics their kind of value allows. We store
what an answer reports; what it does not report is null, never zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from cache_pipeline.errors import SchemaMismatch
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import Column, ColumnKind, Fold, to_snake_case
from cache_pipeline.vendors.definitions import describe

#: A metric and, if it is reported once for each state, the state.
MetricKey = tuple[str, str | None]
#: The statistics of the metrics of one bucket.
BucketStats = Mapping[MetricKey, Mapping[str, object]]


@dataclass(frozen=True)
class _Statistic:
    """One statistic of a metric.

    Attributes:
        name: The vendor's name for it.
        kind: Kind of its column.
        fold: How it rolls up, if at all.
        is_required: Whether every reported metric has it.
        default: Its value if the vendor omits the metric.
        other_name: Another name under which the vendor reports it.
    """

    name: str
    kind: ColumnKind
    fold: Fold
    is_required: bool = True
    default: int | None = 0
    other_name: str = ""

    def read(self, stats: Mapping[str, object]) -> object:
        """Return its value in the statistics of a metric, or None."""
        value = stats.get(self.name)
        return stats.get(self.other_name) if value is None else value


_COUNT = _Statistic("count", ColumnKind.integer, Fold.sum)
_COUNTED = (_COUNT,)
_TIMED = (
    _COUNT,
    _Statistic("sum", ColumnKind.number, Fold.sum),
    _Statistic("min", ColumnKind.number, Fold.min, is_required=False, default=None),
    _Statistic("max", ColumnKind.number, Fold.max, is_required=False, default=None),
)
_SHARE = (_Statistic("numerator", ColumnKind.number, Fold.sum), _Statistic("denominator", ColumnKind.number, Fold.sum))
#: Seen as ``current`` in a captured answer; a third party has it as ``target``.
_TARGET = (_Statistic("target", ColumnKind.number, Fold.same, default=None, other_name="current"),)
#: The vendor does not document which of these an observation has, nor that they add up.
_OBSERVED = tuple(
    _Statistic(name, kind, Fold.none, is_required=False, default=None)
    for name, kind in (
        ("count", ColumnKind.integer),
        ("sum", ColumnKind.number),
        ("min", ColumnKind.number),
        ("max", ColumnKind.number),
    )
)
_STATE = (_Statistic("sum", ColumnKind.number, Fold.sum),)

#: Shares of events. The parts of oServiceLevel are documented; we assume the same parts for the others.
_SERVICE_LEVELS = frozenset({"oServiceLevel", "oCallbackServiceLevel", "oWorkitemsServiceLevel", "oCasesServiceLevel"})
#: A configured share, not a counted one. That it has only a target is known from third parties.
SERVICE_TARGET = "oServiceTarget"
#: The service levels that are reported with that share as their target.
TARGETED_METRICS = frozenset({"oServiceLevel"})

#: The observations of each family, from the vendor's SDK; families without observations are omitted.
OBSERVATIONS: Mapping[str, tuple[str, ...]] = {
    "conversations": (
        *("oAudioMessageCount", "oCallbackServiceLevel", "oExternalAudioMessageCount", "oExternalMediaCount"),
        *("oMediaCount", "oMessageCount", "oMessageSegmentCount", "oMessageTurn", "oServiceLevel", "oServiceTarget"),
        "oSkillExpressionApplications",
    ),
    "flows": ("oFlowMilestone",),
    "bots": (
        *("oBotIntent", "oBotSessionCollection", "oBotSessionCollectionSelfServed", "oBotSessionQuery"),
        *("oBotSessionQuerySelfServed", "oBotSessionTurn", "oBotSlot"),
    ),
    "journeys": ("oJourneyOutcomeTouchpointValue", "oJourneyOutcomeValue"),
    "knowledge": ("oKnowledgeDocumentQuery", "oKnowledgeDocumentQuerySelfServed", "oKnowledgeSearch"),
    "evaluations": ("oTotalCriticalScore", "oTotalScore"),
    "surveys": ("oSurveyQuestionGroupScore", "oSurveyQuestionScore", "oSurveyTotalScore"),
    "transcripts": ("oCustomerSentiment", "oOverTalkSpeechInstances", "oSentimentScore"),
    "taskmanagement": ("oWorkitemsServiceLevel",),
    "casemanagement": ("oCasesServiceLevel",),
    "agentutilizations": ("oAgentAvailableUtilization", "oAgentMaxUtilization", "oAgentUtilizationPercentage"),
}

#: Counts of distinct items. One item can be in several buckets, so they do not add up; nor do nDistinct* metrics.
_DISTINCT = frozenset({"nConversations", "nCopilotUsers", "nSpeechTextAnalyzedConversations"})

#: Metrics that are reported once for each state, with the state as their qualifier: time in milliseconds.
METRIC_STATES: Mapping[str, tuple[str, ...]] = {
    "tSystemPresence": (
        *("AVAILABLE", "AWAY", "BUSY", "OFFLINE", "IDLE", "ON_QUEUE", "MEAL", "TRAINING", "MEETING", "BREAK"),
    ),
    "tAgentRoutingStatus": ("OFF_QUEUE", "IDLE", "INTERACTING", "NOT_RESPONDING", "COMMUNICATING"),
}


#: Time by the organisation's own presences. They are not known beforehand, so each is a row of its own.
ORGANIZATION_PRESENCE = "tOrganizationPresence"


def check_metrics(report: Report) -> Iterable[tuple[str, str]]:
    """Yield unknown metrics, and a volume metric that counts no events, as (field, problem with remedy)."""
    if misnamed := [name for name in report.metrics if name[:1] not in ("n", "t", "o")]:
        yield (
            "metrics",
            f"unknown metrics {', '.join(misnamed)}; Genesys metrics start with n (count), t (duration) or o (observation)",
        )
    if (volume := report.volume_metric) and (
        volume.startswith("o") or volume in METRIC_STATES or volume == ORGANIZATION_PRESENCE
    ):
        yield "volume_metric", f"{volume} counts no events; use a count (n), or a duration (t), which includes a count"
    known = OBSERVATIONS.get(report.query_type, ())
    if unknown := [name for name in report.metrics if name.startswith("o") and name not in known]:
        yield (
            "metrics",
            f"unknown metrics {', '.join(unknown)}; aggregates of {report.query_type} have "
            f"{', '.join(known) or 'no observations'}. Current numbers of waiting or interacting conversations (oWaiting, "
            "oInteracting) are not aggregates: declare a live report of query_type queueObservations, or counts (n) and durations "
            "(t) of past events, such as nOffered, tWait and tHandle of conversations",
        )


def _statistics(metric: str) -> tuple[_Statistic, ...]:
    if metric in METRIC_STATES or metric == ORGANIZATION_PRESENCE:
        return _STATE
    if metric in _SERVICE_LEVELS:
        return _SHARE
    if metric == SERVICE_TARGET:
        return _TARGET
    return {"n": _COUNTED, "t": _TIMED, "o": _OBSERVED}[metric[0]]


_WORDS: Mapping[str, str] = {
    "count": "number of events",
    "numerator": "numerator of the share",
    "denominator": "denominator of the share",
    "target": "as a share",
}
_WORDS_OF_TIMES: Mapping[str, str] = {"sum": "total", "min": "shortest", "max": "longest"}
_WORDS_OF_VALUES: Mapping[str, str] = {"sum": "total", "min": "lowest", "max": "highest"}


def _in_words(metric: str, statistic: _Statistic) -> str:
    """Return what a statistic is, with its unit: times are in milliseconds, and the unit of other values is not documented."""
    if word := _WORDS.get(statistic.name):
        return word
    if metric.startswith("t"):
        return f"{_WORDS_OF_TIMES[statistic.name]} in milliseconds"
    return _WORDS_OF_VALUES[statistic.name]


@dataclass(frozen=True)
class _Figure:
    """One column of a metric: one of its statistics, for one of its states if it has several."""

    column: Column
    statistic: _Statistic
    key: MetricKey


def _figures(metric: str) -> Iterator[_Figure]:
    is_additive = metric not in _DISTINCT and not metric.startswith("nDistinct")
    statistics, stem = _statistics(metric), to_snake_case(metric)
    for statistic in statistics:
        for state in METRIC_STATES.get(metric, (None,)):
            if state is not None:
                name, suffix = f"{stem}_{state.lower()}", f" in {state}"
            else:
                name, suffix = stem if len(statistics) == 1 else f"{stem}_{statistic.name}", ""
            column = Column(
                name,
                statistic.kind,
                nullable=statistic.default is None,
                description=describe(metric, _in_words(metric, statistic) + suffix),
                source=metric,
                fold=statistic.fold if is_additive else Fold.none,
            )
            yield _Figure(column, statistic, (metric, state))


def metric_columns(metrics: Iterable[str]) -> tuple[Column, ...]:
    """Return the columns of metrics: durations in milliseconds, shares as numerator and denominator."""
    return tuple(figure.column for metric in metrics for figure in _figures(metric))


def write_metrics(metrics: Sequence[str], row: Mapping[str, object]) -> list[dict[str, object]]:
    """Return the figures of one bucket as the vendor writes them: in the order of the query, without what did not happen.

    Args:
        metrics: The metrics of the query.
        row: The figures by column; with ``o_service_target`` a service level has its target too.
    """
    entries = (entry for metric in metrics for entry in _write_metric(metric, row))
    return [entry for entry in entries if entry["stats"]]


def _write_metric(metric: str, row: Mapping[str, object]) -> Iterator[dict[str, object]]:
    by_state: dict[str | None, dict[str, object]] = {}
    for figure in _figures(metric):
        by_state.setdefault(figure.key[1], {})[figure.statistic.name] = row.get(figure.column.name)
    for state, stats in by_state.items():
        entry: dict[str, object] = {"metric": metric}
        if state is not None:
            entry["qualifier"] = state
        yield {**entry, "stats": _write_statistics(metric, stats, row)}


def _write_statistics(metric: str, stats: Mapping[str, object], row: Mapping[str, object]) -> dict[str, object]:
    if metric in _SERVICE_LEVELS:
        numerator, denominator = (_whole(stats[name]) for name in ("numerator", "denominator"))
        if not denominator:
            return {}
        target = row.get(to_snake_case(SERVICE_TARGET)) if metric in TARGETED_METRICS else None
        parts: dict[str, object] = {
            "ratio": numerator / denominator,
            "numerator": numerator,
            "denominator": denominator,
        }
        return parts if target is None else {**parts, "target": target}
    if metric == SERVICE_TARGET:
        return {} if stats["target"] is None else {"current": stats["target"]}
    happened = stats.get("count", stats.get("sum"))
    if not happened:
        return {}
    return {name: stats[name] for name in ("max", "min", "count", "sum") if stats.get(name) is not None}


def _whole(value: object) -> float:
    number = float(value) if isinstance(value, int | float) else 0.0
    return int(number) if number.is_integer() else number


class MetricReader:
    """Reads the figures of an answer's buckets, by column.

    Args:
        metrics: The metrics of the query.
    """

    def __init__(self, metrics: Iterable[str]) -> None:
        self._figures = [figure for metric in metrics for figure in _figures(metric)]
        self._statistics: dict[str, dict[str | None, list[_Statistic]]] = {}
        for figure in self._figures:
            metric, state = figure.key
            self._statistics.setdefault(metric, {}).setdefault(state, []).append(figure.statistic)

    def values(self, bucket: BucketStats) -> Mapping[str, object]:
        """Return the figures of one bucket, by column name.

        Args:
            bucket: The statistics of the metrics that had an event.

        Raises:
            SchemaMismatch: The bucket has something that was not requested, or lacks a statistic that the columns need.
        """
        self._check(bucket)
        return {figure.column.name: _value(figure, bucket.get(figure.key)) for figure in self._figures}

    def _check(self, bucket: BucketStats) -> None:
        if unknown := {metric for metric, _ in bucket} - self._statistics.keys():
            raise SchemaMismatch(f"metrics {sorted(unknown)} were not requested")
        for (metric, state), stats in bucket.items():
            statistics = self._statistics[metric].get(state)
            if statistics is None:
                expected = ", ".join(METRIC_STATES.get(metric, ())) or "no qualifier"
                raise SchemaMismatch(f"{metric} has unknown qualifier {state!r}; expected {expected}")
            if all(statistic.read(stats) is None for statistic in statistics):
                raise _missing_statistic(metric, [statistic.name for statistic in statistics], stats)


def _value(figure: _Figure, stats: Mapping[str, object] | None) -> object:
    # The vendor omits a metric without events; for a statistic that adds up, that means zero.
    if stats is None:
        return figure.statistic.default
    value = figure.statistic.read(stats)
    if value is None and figure.statistic.is_required:
        raise _missing_statistic(figure.key[0], [figure.statistic.name], stats)
    return value


def _missing_statistic(metric: str, statistics: Iterable[str], stats: Mapping[str, object]) -> SchemaMismatch:
    present = sorted(name for name, value in stats.items() if value is not None)
    return SchemaMismatch(
        f"{metric} lacks its {' or '.join(statistics)}; the answer has {', '.join(present) or 'none'}"
    )
