"""A conversation as the vendor tells it in details: participants, their sessions, segments and metrics.

Metrics carry the instant at which they are emitted, so that their sums by bucket are the aggregates of the same calls:
the offer and the abandon belong to the queue, everything from the answer on to the agent.
"""

from dataclasses import dataclass
from typing import Any

from cache_pipeline.simulator.calls import Calls
from cache_pipeline.simulator.intervals import iso
from cache_pipeline.simulator.organisation import MEDIA, Organisation

Json = dict[str, Any]
_TAGS = ("c0", "f0", "a0", "b0")


@dataclass(frozen=True)
class Seen:
    """One call and how far it can be seen.

    Attributes:
        calls: Its day.
        row: Its place among the day's calls.
        resolved: Whether its answer or abandon can be seen.
        ended: Whether its end can be seen; never for one that is not resolved.
        orphan: Whether it is never given an end.
    """

    calls: Calls
    row: int
    resolved: bool
    ended: bool
    orphan: bool


def _metric(name: str, value: int, at: int) -> Json:
    return {"name": name, "value": value, "emitDate": iso(at)}


def _segment(kind: str, start: int, end: int | None, **more: Any) -> Json:
    segment: Json = {"segmentType": kind, "segmentStart": iso(start), "conference": False, **more}
    if end is not None:
        segment["segmentEnd"] = iso(end)
    return segment


@dataclass(frozen=True)
class _Teller:
    """Writes one conversation; instants in milliseconds since the epoch."""

    seen: Seen
    organisation: Organisation
    id: str
    media: str
    queue: str
    offered: int
    resolved: int
    ended: int
    abandoned: bool

    def participant(self, number: int, purpose: str, metrics: list[Json], segments: list[Json], **more: Any) -> Json:
        session: Json = {
            "sessionId": f"{_TAGS[number]}5e{self.id[4:]}",
            "mediaType": self.media,
            "direction": "inbound",
            "segments": segments,
        }
        if metrics:
            session["metrics"] = metrics
        session |= more.pop("session", {})
        return {
            "participantId": f"{_TAGS[number]}9a{self.id[4:]}",
            "purpose": purpose,
            "sessions": [session],
            **more,
        }

    @property
    def last(self) -> int | None:
        """When it ended, as far as can be seen."""
        return self.ended if self.seen.ended else None

    def customer(self, start: int, *, with_attributes: bool) -> Json:
        segment = _segment("interact", start, self.last, **({"disconnectType": "peer"} if self.seen.ended else {}))
        caller = f"+4930{int(self.seen.calls.id_words[self.seen.row][0]) % 10_000_000:07}"
        session = {"ani": f"tel:{caller}", "dnis": "tel:+49305550100"} if self.media == "voice" else {}
        more: Json = {"attributes": {"orderNumber": self.id[-6:].upper()}} if with_attributes else {}
        return self.participant(0, "customer", [], [segment], session=session, **more)

    def flow(self, start: int) -> Json:
        flows = self.organisation.values["flowId"]
        flow = flows[int(self.seen.calls.queue[self.seen.row]) % len(flows)]
        metrics = [_metric("nFlow", 1, self.offered), _metric("tFlow", self.offered - start, self.offered)]
        told = {"flowId": flow, "flowName": "Main line", "flowType": "INBOUNDCALL", "exitReason": "TRANSFER"}
        segments = [_segment("ivr", start, self.offered, disconnectType="transfer")]
        return self.participant(1, "ivr", metrics, segments, session={"flow": told})

    def queued(self) -> Json:
        metrics = [_metric("nOffered", 1, self.offered)]
        more: Json = {"queueId": self.queue}
        if self.seen.resolved:
            more["disconnectType"] = "peer" if self.abandoned else "transfer"
        if self.seen.resolved and self.abandoned:
            metrics.append(_metric("tAbandon", self.resolved - self.offered, self.resolved))
        end = self.resolved if self.seen.resolved else None
        return self.participant(2, "acd", metrics, [_segment("interact", self.offered, end, **more)])

    def agent(self) -> Json:
        calls, row = self.seen.calls, self.seen.row
        talk, held, acw = int(calls.talk_ms[row]), int(calls.held_ms[row]), int(calls.acw_ms[row])
        wait = self.resolved - self.offered
        metrics = [_metric("nConnected", 1, self.resolved)]
        metrics += [_metric("tAnswered", wait, self.resolved), _metric("tWait", wait, self.resolved)]
        if not calls.met[row]:
            metrics.append(_metric("nOverSla", 1, self.resolved))
        if self.seen.ended:
            metrics += [_metric("tTalk", talk, self.ended), _metric("tAcw", acw, self.ended)]
            metrics.append(_metric("tHandle", talk + held + acw, self.ended))
            metrics += [_metric("tHeld", held, self.ended)] if held else []
            metrics += [_metric("nTransferred", 1, self.ended)] if calls.transferred[row] else []
        user = self.organisation.values["userId"][int(calls.agent[row])]
        segments = self._handling(talk, held, acw, "transfer" if calls.transferred[row] else "peer")
        return self.participant(3, "agent", metrics, segments, userId=user)

    def _handling(self, talk: int, held: int, acw: int, disconnect: str) -> list[Json]:
        queue = {"queueId": self.queue}
        if not self.seen.ended:
            return [_segment("interact", self.resolved, None, **queue)]
        first = talk // 2 if held else talk
        at = self.resolved
        segments: list[Json] = []
        for kind, length in (("interact", first), ("hold", held), ("interact", talk - first), ("wrapup", acw)):
            if length or kind == "wrapup":
                segments.append(_segment(kind, at, at + length, **queue))
                at += length
        [segment for segment in segments if segment["segmentType"] == "interact"][-1]["disconnectType"] = disconnect
        return segments


def conversation_of(seen: Seen, organisation: Organisation, *, with_attributes: bool) -> Json:
    """Return one conversation as far as it can be seen; what is not known yet is left out."""
    calls, row = seen.calls, seen.row
    teller = _Teller(
        seen=seen,
        organisation=organisation,
        id=calls.conversation_id(row),
        media=MEDIA[calls.media[row]],
        queue=organisation.values["queueId"][int(calls.queue[row])],
        offered=int(calls.offered_ms[row]),
        resolved=int(calls.resolved_ms[row]),
        ended=int(calls.ended_ms[row]),
        abandoned=bool(calls.abandoned[row]),
    )
    division = organisation.divisions[int(calls.queue[row]) % len(organisation.divisions)]
    start = int(calls.start_ms[row])
    participants = [teller.customer(start, with_attributes=with_attributes)]
    if start < teller.offered:
        participants.append(teller.flow(start))
    participants.append(teller.queued())
    if seen.resolved and not teller.abandoned:
        participants.append(teller.agent())
    conversation: Json = {
        "conversationId": teller.id,
        "conversationStart": iso(start),
        "originatingDirection": "inbound",
        "conversationInitiator": "customer",
        "divisionIds": [division],
        "participants": participants,
    }
    if seen.ended and not seen.orphan:
        conversation["conversationEnd"] = iso(teller.ended)
    return conversation
