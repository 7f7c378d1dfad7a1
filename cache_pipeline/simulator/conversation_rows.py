"""Conversations in the vendor's details format: participants, their sessions, segments and metrics.

Metrics carry the instant at which they are emitted, so that their sums by bucket equal the aggregates of the same calls.
The offer and the abandon belong to the queue, everything from the answer onwards to the agent.
"""

from dataclasses import dataclass
from typing import Any

from cache_pipeline.simulator.calls import Calls
from cache_pipeline.simulator.intervals import iso
from cache_pipeline.simulator.organisation import MEDIA, Organisation

Json = dict[str, Any]
_TAGS = ("c0", "f0", "a0", "b0")


@dataclass(frozen=True)
class VisibleCall:
    """One call and how much of it is visible.

    Attributes:
        calls: The calls of its day.
        row: Its row in the day's calls.
        is_resolved: Whether its answer or abandon is visible.
        has_ended: Whether its end is visible; only if it is resolved.
        is_orphan: Whether it never gets an end.
    """

    calls: Calls
    row: int
    is_resolved: bool
    has_ended: bool
    is_orphan: bool


def _metric(name: str, value: int, emitted_at: int) -> Json:
    return {"name": name, "value": value, "emitDate": iso(emitted_at)}


def _segment(kind: str, start: int, end: int | None, **fields: Any) -> Json:
    segment: Json = {"segmentType": kind, "segmentStart": iso(start), "conference": False, **fields}
    if end is not None:
        segment["segmentEnd"] = iso(end)
    return segment


@dataclass(frozen=True)
class _ConversationWriter:
    """Builds one conversation; instants are in milliseconds since the epoch."""

    call: VisibleCall
    organisation: Organisation
    id: str
    media: str
    queue: str
    offered: int
    resolved: int
    ended: int
    is_abandoned: bool

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
    def visible_end(self) -> int | None:
        """The visible end, or None."""
        return self.ended if self.call.has_ended else None

    def customer(self, start: int, *, with_attributes: bool) -> Json:
        segment = _segment(
            "interact", start, self.visible_end, **({"disconnectType": "peer"} if self.call.has_ended else {})
        )
        caller = f"+4930{int(self.call.calls.id_words[self.call.row][0]) % 10_000_000:07}"
        session = {"ani": f"tel:{caller}", "dnis": "tel:+49305550100"} if self.media == "voice" else {}
        more: Json = {"attributes": {"orderNumber": self.id[-6:].upper()}} if with_attributes else {}
        return self.participant(0, "customer", [], [segment], session=session, **more)

    def flow(self, start: int) -> Json:
        flows = self.organisation.values["flowId"]
        flow = flows[int(self.call.calls.queue[self.call.row]) % len(flows)]
        metrics = [_metric("nFlow", 1, self.offered), _metric("tFlow", self.offered - start, self.offered)]
        flow_fields = {"flowId": flow, "flowName": "Main line", "flowType": "INBOUNDCALL", "exitReason": "TRANSFER"}
        segments = [_segment("ivr", start, self.offered, disconnectType="transfer")]
        return self.participant(1, "ivr", metrics, segments, session={"flow": flow_fields})

    def queue_participant(self) -> Json:
        metrics = [_metric("nOffered", 1, self.offered)]
        more: Json = {"queueId": self.queue}
        if self.call.is_resolved:
            more["disconnectType"] = "peer" if self.is_abandoned else "transfer"
        if self.call.is_resolved and self.is_abandoned:
            metrics.append(_metric("tAbandon", self.resolved - self.offered, self.resolved))
        end = self.resolved if self.call.is_resolved else None
        return self.participant(2, "acd", metrics, [_segment("interact", self.offered, end, **more)])

    def agent(self) -> Json:
        calls, row = self.call.calls, self.call.row
        talk, held, acw = int(calls.talk_ms[row]), int(calls.held_ms[row]), int(calls.acw_ms[row])
        wait = self.resolved - self.offered
        metrics = [_metric("nConnected", 1, self.resolved)]
        metrics += [_metric("tAnswered", wait, self.resolved), _metric("tWait", wait, self.resolved)]
        if not calls.met[row]:
            metrics.append(_metric("nOverSla", 1, self.resolved))
        if self.call.has_ended:
            metrics += [_metric("tTalk", talk, self.ended), _metric("tAcw", acw, self.ended)]
            metrics.append(_metric("tHandle", talk + held + acw, self.ended))
            metrics += [_metric("tHeld", held, self.ended)] if held else []
            metrics += [_metric("nTransferred", 1, self.ended)] if calls.transferred[row] else []
        user = self.organisation.values["userId"][int(calls.agent[row])]
        segments = self._handling(talk, held, acw, "transfer" if calls.transferred[row] else "peer")
        return self.participant(3, "agent", metrics, segments, userId=user)

    def _handling(self, talk: int, held: int, acw: int, disconnect: str) -> list[Json]:
        queue = {"queueId": self.queue}
        if not self.call.has_ended:
            return [_segment("interact", self.resolved, None, **queue)]
        first = talk // 2 if held else talk
        position = self.resolved
        segments: list[Json] = []
        codes = self.organisation.wrap_up_codes
        code = codes[int(self.call.calls.id_words[self.call.row][1]) % len(codes)]
        for kind, length in (("interact", first), ("hold", held), ("interact", talk - first), ("wrapup", acw)):
            if length or kind == "wrapup":
                wrap_up = {"wrapUpCode": code} if kind == "wrapup" else {}
                segments.append(_segment(kind, position, position + length, **queue, **wrap_up))
                position += length
        [segment for segment in segments if segment["segmentType"] == "interact"][-1]["disconnectType"] = disconnect
        return segments


def build_conversation(call: VisibleCall, organisation: Organisation, *, with_attributes: bool) -> Json:
    """Return the visible part of one conversation; fields that are not visible yet are absent."""
    calls, row = call.calls, call.row
    writer = _ConversationWriter(
        call=call,
        organisation=organisation,
        id=calls.conversation_id(row),
        media=MEDIA[calls.media[row]],
        queue=organisation.values["queueId"][int(calls.queue[row])],
        offered=int(calls.offered_ms[row]),
        resolved=int(calls.resolved_ms[row]),
        ended=int(calls.ended_ms[row]),
        is_abandoned=bool(calls.abandoned[row]),
    )
    division = organisation.divisions[int(calls.queue[row]) % len(organisation.divisions)]
    start = int(calls.start_ms[row])
    participants = [writer.customer(start, with_attributes=with_attributes)]
    if start < writer.offered:
        participants.append(writer.flow(start))
    participants.append(writer.queue_participant())
    if call.is_resolved and not writer.is_abandoned:
        participants.append(writer.agent())
    conversation: Json = {
        "conversationId": writer.id,
        "conversationStart": iso(start),
        "originatingDirection": "inbound",
        "conversationInitiator": "customer",
        "divisionIds": [division],
        "participants": participants,
    }
    if call.has_ended and not call.is_orphan:
        conversation["conversationEnd"] = iso(writer.ended)
    return conversation
