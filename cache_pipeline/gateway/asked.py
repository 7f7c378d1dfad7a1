"""A question as it comes in, checked, in the one form that keys, jobs and links are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from cache_pipeline.gateway.keys import Principal
from cache_pipeline.gateway.problem import Problem
from cache_pipeline.query.declarations import find_report
from cache_pipeline.query.errors import InvalidInterval
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.report import Report
from cache_pipeline.query.series import Query
from cache_pipeline.service.report_service import ReportService

#: The part of a key that says which lifetime it has (G7), for what lives as long as the query is open.
_JOB = "job"


@dataclass(frozen=True)
class Asked:
    """One question.

    Attributes:
        report: the declaration.
        query: what is asked of it now.
    """

    report: Report
    query: Query

    @property
    def key(self) -> str:
        """The same for every spelling of the same meaning (G6)."""
        return self.query.key(_JOB)

    @property
    def request(self) -> dict[str, Any]:
        """What a worker needs to ask the same."""
        return {"interval": str(self.query.interval)}

    @property
    def href(self) -> str:
        """Where the answer is."""
        return href(self.report.report, self.request)


def href(report: str, request: Mapping[str, Any]) -> str:
    """Where the answer to a request is."""
    return f"/v1/reports/{report}?interval={quote(request['interval'], safe=':/')}"


def permitted(reports: Mapping[str, Report], name: str, caller: Principal) -> Report:
    """The report of a name.

    Raises:
        UnknownReport: naming those there are for this caller.
        Problem: 403, the report is not among the caller's.
    """
    found = find_report({each: reports[each] for each in reports if caller.may_ask(each) or each == name}, name)
    if not caller.may_ask(name):
        raise Problem("forbidden", 403, f"this key may not ask for {name}")
    return found


def asked(service: ReportService, report: Report, interval: str, max_buckets: int) -> Asked:
    """Check a question.

    Raises:
        InvalidInterval: not an interval, off the report's buckets, in the future, or longer than is allowed.
    """
    wanted = Interval.parse(interval, report.zone)
    # Before anything is laid out bucket by bucket.
    count = wanted.length / report.step.nominal
    if count > max_buckets:
        raise InvalidInterval(
            f"interval {wanted} has {count:.0f} buckets of {report.granularity}, more than the {max_buckets} that "
            "one query may have: ask in parts"
        )
    return Asked(report, service.query(report, wanted))
