"""Metrics of aggregates: which columns each has, by the statistics the vendor tells of it.

The first letter of a name says what it is: n* are counts, t* durations in milliseconds, o* observations of some value. Of the last
the service levels have parts that add, and the rest whatever their kind of value allows: what an answer tells of them is kept,
and what it does not tell is null, never nought.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from cache_pipeline.errors import SchemaMismatch
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import Column, ColumnKind, Fold, snake_case

#: A metric and, where it is told once for each state, the state.
Told = tuple[str, str | None]
Stats = Mapping[Told, Mapping[str, object]]


@dataclass(frozen=True)
class _Statistic:
    """One of a metric's statistics.

    Attributes:
        name: the vendor's.
        kind: of the column.
        fold: where it adds up or folds at all.
        always: a metric that is told has it.
        nought: what it is where the metric is left out.
    """

    name: str
    kind: ColumnKind
    fold: Fold
    always: bool = True
    nought: int | None = 0


_COUNT = _Statistic("count", ColumnKind.integer, Fold.sum)
_COUNTED = (_COUNT,)
_TIMED = (
    _COUNT,
    _Statistic("sum", ColumnKind.number, Fold.sum),
    _Statistic("min", ColumnKind.number, Fold.min, always=False, nought=None),
    _Statistic("max", ColumnKind.number, Fold.max, always=False, nought=None),
)
_SHARE = (_Statistic("numerator", ColumnKind.number, Fold.sum), _Statistic("denominator", ColumnKind.number, Fold.sum))
_TARGET = (_Statistic("target", ColumnKind.number, Fold.none, nought=None),)
#: Which of these the vendor tells of an observation is not documented; nor is that they add up.
_OBSERVED = tuple(
    _Statistic(name, kind, Fold.none, always=False, nought=None)
    for name, kind in (
        ("count", ColumnKind.integer),
        ("sum", ColumnKind.number),
        ("min", ColumnKind.number),
        ("max", ColumnKind.number),
    )
)
_STATE = (_Statistic("sum", ColumnKind.number, Fold.sum),)

#: Shares of events; of oServiceLevel the parts are documented, of the others taken to be the same.
_SERVICE_LEVELS = frozenset({"oServiceLevel", "oCallbackServiceLevel", "oWorkitemsServiceLevel", "oCasesServiceLevel"})
#: A share that was set, and is not counted; that it has a target alone is third parties' knowledge.
_SERVICE_TARGET = "oServiceTarget"

#: The observations that each family has, by the vendor's SDK; families without any are left out.
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

#: These count distinct ones, of which one is in several buckets; so do all that begin with nDistinct.
_DISTINCT = frozenset({"nConversations", "nCopilotUsers", "nSpeechTextAnalyzedConversations"})

#: Metrics that are told once for each state, with the state as their qualifier: time in milliseconds.
BY_STATE: Mapping[str, tuple[str, ...]] = {
    "tSystemPresence": (
        *("AVAILABLE", "AWAY", "BUSY", "OFFLINE", "IDLE", "ON_QUEUE", "MEAL", "TRAINING", "MEETING", "BREAK"),
    ),
    "tAgentRoutingStatus": ("OFF_QUEUE", "IDLE", "INTERACTING", "NOT_RESPONDING", "COMMUNICATING"),
}


def review_metrics(report: Report) -> Iterable[tuple[str, str]]:
    """Metrics whose figures are not known, or that count nothing and shall, with what to declare in their place."""
    if odd := [name for name in report.metrics if name[:1] not in ("n", "t", "o")]:
        yield "metrics", f"{', '.join(odd)}: Genesys metrics start with n (count), t (duration) or o (observation)"
    if (counted := report.volume_metric) and (counted.startswith("o") or counted in BY_STATE):
        yield "volume_metric", f"{counted} counts no events: name a count (n), or a duration (t), which has one"
    known = OBSERVATIONS.get(report.query_type, ())
    if unknown := [name for name in report.metrics if name.startswith("o") and name not in known]:
        yield (
            "metrics",
            f"{', '.join(unknown)}: aggregates of {report.query_type} have {', '.join(known) or 'no observations'}; how many "
            "wait or talk at the moment (oWaiting, oInteracting) is no aggregate: declare counts (n) and durations (t) of what "
            "happened, such as nOffered, tWait and tHandle of conversations",
        )


def _statistics(metric: str) -> tuple[_Statistic, ...]:
    if metric in BY_STATE:
        return _STATE
    if metric in _SERVICE_LEVELS:
        return _SHARE
    if metric == _SERVICE_TARGET:
        return _TARGET
    return {"n": _COUNTED, "t": _TIMED, "o": _OBSERVED}[metric[0]]


@dataclass(frozen=True)
class _Figure:
    """One column of a metric: which statistic of it, and in which state where there are several."""

    column: Column
    statistic: _Statistic
    told: Told


def _figures(metric: str) -> Iterator[_Figure]:
    adds_up = metric not in _DISTINCT and not metric.startswith("nDistinct")
    statistics, stem = _statistics(metric), snake_case(metric)
    for statistic in statistics:
        for state in BY_STATE.get(metric, (None,)):
            if state is not None:
                name, description = f"{stem}_{state.lower()}", f"{statistic.name} of {metric} in {state}"
            else:
                name = stem if len(statistics) == 1 else f"{stem}_{statistic.name}"
                description = f"{statistic.name} of {metric}"
            column = Column(
                name,
                statistic.kind,
                nullable=statistic.nought is None,
                description=description,
                source=metric,
                fold=statistic.fold if adds_up else Fold.none,
            )
            yield _Figure(column, statistic, (metric, state))


def metric_columns(metrics: Iterable[str]) -> tuple[Column, ...]:
    """The columns of metrics: durations in milliseconds, shares by their parts."""
    return tuple(figure.column for metric in metrics for figure in _figures(metric))


class MetricReader:
    """Reads what an answer tells of its buckets, by column.

    Args:
        metrics: that were asked for.
    """

    def __init__(self, metrics: Iterable[str]) -> None:
        self._figures = [figure for metric in metrics for figure in _figures(metric)]
        self._statistics: dict[str, dict[str | None, list[str]]] = {}
        for figure in self._figures:
            metric, state = figure.told
            self._statistics.setdefault(metric, {}).setdefault(state, []).append(figure.statistic.name)

    def values(self, told: Stats) -> Mapping[str, object]:
        """The figures of one bucket.

        Args:
            told: the statistics of the metrics that had an event.

        Raises:
            SchemaMismatch: something else was told, or a statistic that the columns need was not.
        """
        self._refuse_unknown(told)
        return {figure.column.name: _value(figure, told.get(figure.told)) for figure in self._figures}

    def _refuse_unknown(self, told: Stats) -> None:
        if unknown := {metric for metric, _ in told} - self._statistics.keys():
            raise SchemaMismatch(f"metrics {sorted(unknown)} were not asked for")
        for (metric, state), stats in told.items():
            names = self._statistics[metric].get(state)
            if names is None:
                known = ", ".join(BY_STATE.get(metric, ()))
                wanted = f"none of {known}" if known else "a qualifier that no column is for"
                raise SchemaMismatch(f"{metric} is told for {state!r}, which is {wanted}")
            if all(stats.get(name) is None for name in names):
                raise _lacks(metric, names, stats)


def _value(figure: _Figure, stats: Mapping[str, object] | None) -> object:
    # A metric that had no event is left out; for what adds up that means nought.
    if stats is None:
        return figure.statistic.nought
    value = stats.get(figure.statistic.name)
    if value is None and figure.statistic.always:
        raise _lacks(figure.told[0], [figure.statistic.name], stats)
    return value


def _lacks(metric: str, statistics: Iterable[str], stats: Mapping[str, object]) -> SchemaMismatch:
    held = sorted(name for name, value in stats.items() if value is not None)
    there = f"only {', '.join(held)}" if held else "nothing"
    return SchemaMismatch(f"{metric} is told without its {' or '.join(statistics)}: there is {there}")
