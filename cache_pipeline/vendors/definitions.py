"""Definitions of the metrics and dimensions of `columns`, in short, as a vendor documents them; those not listed have none."""

from __future__ import annotations

from collections.abc import Mapping

METRICS: Mapping[str, str] = {
    "nBlindTransferred": "transfers without a consultation first",
    "nConnected": "interactions that were connected",
    "nConsult": "consultations with another participant",
    "nConsultTransferred": "transfers after a consultation",
    "nConversations": "distinct conversations",
    "nError": "interactions that ended with an error",
    "nOffered": "interactions offered to a queue",
    "nOutbound": "outbound interactions",
    "nOutboundAbandoned": "outbound interactions that were abandoned",
    "nOutboundAttempted": "outbound interactions that were attempted",
    "nOutboundConnected": "outbound interactions that were connected",
    "nOverSla": "interactions answered later than the service level's time",
    "nTransferred": "interactions that an agent transferred",
    "oServiceLevel": "interactions answered within the service level's time, of all that count for it",
    "oServiceTarget": "the service level that the queue aims at",
    "tAbandon": "time that customers waited in a queue before they gave up",
    "tAcd": "time that interactions waited in a queue, answered or not",
    "tAcw": "after-call work of agents",
    "tAlert": "time that interactions alerted an agent before they were answered or not",
    "tAnswered": "time that interactions waited in a queue before an agent answered",
    "tContacting": "time between the start of an outbound interaction and its dialling",
    "tDialing": "time that outbound interactions were dialled",
    "tFlowOut": "time that interactions waited in a queue before they left it, neither answered nor abandoned",
    "tHandle": "time that agents spent on interactions: talk, hold and after-call work, dialling and contacting included",
    "tHeld": "time that interactions were on hold, once for each hold",
    "tHeldComplete": "time that interactions were on hold, once for each interaction",
    "tIvr": "time that interactions spent in a voice menu",
    "tNotResponding": "time that agents did not respond to an alert",
    "tShortAbandon": "time that customers waited who gave up within the time that counts as a short abandon",
    "tSystemPresence": "time that users spent in a system presence",
    "tAgentRoutingStatus": "time that agents spent in a routing status",
    "tOrganizationPresence": "time that users spent in a presence of the organisation",
    "tTalk": "time that agents and customers talked, once for each stretch",
    "tTalkComplete": "time that agents and customers talked, once for each interaction",
    "tVoicemail": "time that customers spent leaving a voicemail",
    "tWait": "time that interactions waited in a queue, answered or abandoned",
}
DIMENSIONS: Mapping[str, str] = {
    "conversationId": "id of the conversation",
    "direction": "inbound or outbound",
    "divisionId": "id of the division",
    "flowId": "id of the flow",
    "mediaType": "medium, such as voice, chat or email",
    "messageType": "kind of message, such as sms or webmessaging",
    "originatingDirection": "whether the conversation began inbound or outbound",
    "organizationPresenceId": "id of the organisation's presence",
    "queueId": "id of the queue",
    "systemPresence": "system presence, such as AVAILABLE or ON_QUEUE",
    "userId": "id of the user",
    "wrapUpCode": "code that the agent gave the interaction at its end",
}


def describe(name: str, statistic: str = "") -> str:
    """Return a description of a metric's statistic or of a dimension, with its definition if there is one."""
    definition = METRICS.get(name) or DIMENSIONS.get(name) or ""
    return ": ".join(filter(None, (", ".join(filter(None, (name, statistic))), definition)))
