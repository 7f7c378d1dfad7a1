"""What a vendor says of the present in its own form, for callers at its own paths: kept half a minute, like the rows of live reports."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from cache_pipeline.query.live_report import LiveReport
from cache_pipeline.service.live_answers import LiveAnswers, document_key, live_key
from cache_pipeline.storage.answer import Answer, DeliveryMode, describe_answer


@dataclass(frozen=True)
class LiveObservations:
    """Reads what vendors say of the present.

    Attributes:
        answers: Asks for it, and keeps the rows beside it.
    """

    answers: LiveAnswers

    async def answer(self, report: LiveReport, tenant: str, ids: Sequence[str] | None) -> tuple[Answer, bool]:
        """Return the vendor's answer as JSON, and whether it was at hand.

        Args:
            report: The live report whose metrics are asked for.
            tenant: The tenant.
            ids: The ids of what is observed; None for all that the vendor lists.

        Raises:
            CachePipelineError: As `LiveAnswers.answer`.
        """
        key = document_key(report, tenant)
        if ids is None:
            return await self.answers.find(key, lambda: self._ask(report, tenant, key))
        digest = hashlib.sha256(json.dumps(sorted(ids)).encode()).hexdigest()
        narrowed = f"{key}:{digest}"
        return await self.answers.find(narrowed, lambda: self._ask_for(report, tenant, ids, narrowed))

    async def _ask(self, report: LiveReport, tenant: str, key: str) -> Answer:
        observed = await self.answers.observe(report, tenant)
        await self.answers.store(key, observed.document, observed.seconds)
        # Rows that the vendor's own news keep up to date are not replaced by those of one question.
        entry = await self.answers.hot.get_entry(live_key(report, tenant))
        if entry is None or describe_answer(entry.answer.body)["delivery"]["mode"] == DeliveryMode.query:
            await self.answers.store(live_key(report, tenant), observed.rows, observed.seconds)
        return observed.document

    async def _ask_for(self, report: LiveReport, tenant: str, ids: Sequence[str], key: str) -> Answer:
        observed = await self.answers.observe(report, tenant, ids=ids)
        await self.answers.store(key, observed.document, observed.seconds)
        return observed.document
