"""The vendor's words for conversation aggregates: which metrics, dimensions and fields it knows."""

_METRICS = """
nAgentDeclined nAlertExpired nBlindTransferred nBotInteractions nCallbackAttempts nCallbackOverSla
nCallbackScheduled nCfcOffered nCobrowseSessions nConnected nConsult nConsultTransferred nConversations nError
nOffered nOutbound nOutboundAbandoned nOutboundAttempted nOutboundConnected nOverSla nStateTransitionError
nTakeover nTransferred oAudioMessageCount oCallbackServiceLevel oExternalAudioMessageCount oExternalMediaCount
oMediaCount oMessageCount oMessageSegmentCount oMessageTurn oServiceLevel oServiceTarget
oSkillExpressionApplications tAbandon tAcd tActiveCallback tActiveCallbackComplete tAcw tAgentResponseTime
tAgentVideoConnected tAlert tAnswered tAverageAgentResponseTime tAverageCustomerResponseTime tBarging
tCallbackAbandon tCallbackConnect tCallbackNotReached tCallbackVirtualWait tCfcAbandon tCfcAcd tCfcAnswered
tCfcFlowOut tCoaching tCoachingComplete tConnected tContacting tDialing tFirstConnect tFirstDial
tFirstEngagement tFirstResponse tFlowOut tHandle tHeld tHeldComplete tIvr tMonitoring tMonitoringComplete
tNotResponding tPark tParkComplete tScreenMonitoring tShortAbandon tSnippetRecord tTalk tTalkComplete
tTransmitting tUserResponseTime tVoicemail tWait
"""


_DIMENSIONS = """
activeRouting activeSkillId addressFrom addressTo agentAssistantId agentBullseyeRing agentOwned agentRank
agentScore ani assignerId authenticated canonicalExternalContactId conversationId conversationInitiator
convertedFrom convertedTo customerParticipation deliveryStatus destinationAddress direction disconnectType
divisionId dnis edgeId eligibleAgentCount errorCode extendedDeliveryStatus externalContactId externalMediaCount
externalOrganizationId externalTag firstQueue flaggedReason flowInType flowOutType groupId interactionType
journeyActionId journeyActionMapId journeyActionMapVersion journeyCustomerId journeyCustomerIdType
journeyCustomerSessionId journeyCustomerSessionIdType knowledgeBaseId mediaCount mediaType messageType
originatingDirection originatingSocialMediaPublic outboundCampaignId outboundContactId outboundContactListId
participantName peerId proposedAgentId provider purpose queueId remote removedSkillId requestedLanguageId
requestedRouting requestedRoutingSkillId roomId routingPriority routingRing routingRule routingRuleType
scoredAgentId selectedAgentId selectedAgentRank selfServed sessionDnis sessionId skillExpressionId stationId
teamId usedRouting userId videoPresent waitingInteractionCount wrapUpCode
"""


_MEDIA_TYPES = """
callback chat cobrowse email internalmessage message screenmonitoring screenshare unknown video voice
"""


METRICS = frozenset(_METRICS.split())
DIMENSIONS = frozenset(_DIMENSIONS.split())
MEDIA_TYPES = frozenset(_MEDIA_TYPES.split())

COUNTED = {"nOffered": "offered", "nConnected": "answered", "nTransferred": "transferred", "nOverSla": "over_target"}
"""Metrics told as a count, and the fact each comes from."""

TIMED = {
    "tAnswered": "answered",
    "tAbandon": "abandoned",
    "tWait": "answered",
    "tTalk": "talk",
    "tHeld": "held",
    "tAcw": "after_call",
    "tHandle": "handle",
}
"""Metrics told as max, min, count and sum of milliseconds, and the fact each comes from."""

SERVICE_LEVEL = "oServiceLevel"
