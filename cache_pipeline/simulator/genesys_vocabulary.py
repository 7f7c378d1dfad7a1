"""The vendor's names of metrics, dimensions and states, by family."""

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


_FLOW_METRICS = """
nFlow nFlowMilestone nFlowOutcome nFlowOutcomeFailed oFlowMilestone tFlow tFlowDisconnect tFlowExit tFlowOutcome
"""


# Dimensions that only flows have, and one that only conversations have.
_FLOW_DIMENSIONS = """
endingLanguage entryReason entryType exitReason flowId flowMilestoneId flowName flowOutcome flowOutcomeId
flowOutcomeValue flowSubType flowType flowVersion recognitionFailureReason startingLanguage transferTargetAddress
transferTargetName transferType
"""
_NO_FLOW_DIMENSIONS = """
originatingSocialMediaPublic
"""


_CONVERSATION_DETAIL_DIMENSIONS = """
accessAttribute conversationEnd conversationId conversationInitiator conversationStart customerParticipation
divisionId externalTag mediaStatsMinConversationMos originatingDirection originatingSocialMediaPublic
"""


_SEGMENT_DETAIL_DIMENSIONS = """
addressFrom addressTo agentAssistantId agentOwned ani authenticated bargedParticipantId callbackNumber
callbackScheduledTime canonicalExternalContactId cleared coachedParticipantId conference deliveryPushed
deliveryStatus destinationAddress destinationConversationId detectedSpeechEnd detectedSpeechStart direction
disconnectType dnis edgeId engagementSource errorCode exitReason extendedDeliveryStatus externalContactId
externalOrganizationId flaggedReason flowId flowName flowOutType flowOutcome flowOutcomeId flowOutcomeValue
flowVersion groupId journeyActionId journeyActionMapId journeyCustomerId journeyCustomerIdType
journeyCustomerSessionId mediaCount mediaType messageType monitoredParticipantId outboundCampaignId
outboundContactId outboundContactListId participantName protocolCallId provider purpose queueId recording remote
remoteNameDisplayable requestedLanguageId requestedRouting requestedRoutingSkillId scoredAgentId
screenMonitoredUserId screenRecording scriptId segmentEnd segmentType sessionDnis sipResponseCode skillExpressionId
snippetRecording subject teamId transferTargetAddress transferTargetName transferType usedRouting userId wrapUpCode
wrapUpNote
"""


METRICS = frozenset(_METRICS.split())
DIMENSIONS = frozenset(_DIMENSIONS.split())
MEDIA_TYPES = frozenset(_MEDIA_TYPES.split())

FLOW_METRICS = frozenset(_FLOW_METRICS.split())
FLOW_DIMENSIONS = (DIMENSIONS | frozenset(_FLOW_DIMENSIONS.split())) - frozenset(_NO_FLOW_DIMENSIONS.split())

USER_METRICS = frozenset(("tAgentRoutingStatus", "tOrganizationPresence", "tSystemPresence"))
USER_DIMENSIONS = frozenset(("userId",))

CONVERSATION_DETAIL_DIMENSIONS = frozenset(_CONVERSATION_DETAIL_DIMENSIONS.split())
SEGMENT_DETAIL_DIMENSIONS = frozenset(_SEGMENT_DETAIL_DIMENSIONS.split())

SYSTEM_PRESENCES = ("AVAILABLE", "AWAY", "BUSY", "OFFLINE", "IDLE", "ON_QUEUE", "MEAL", "TRAINING", "MEETING", "BREAK")
ROUTING_STATUSES = ("OFF_QUEUE", "IDLE", "INTERACTING", "NOT_RESPONDING", "COMMUNICATING")

SERVICE_LEVELS = frozenset(("oServiceLevel", "oWorkitemsServiceLevel", "oCasesServiceLevel"))
"""Metrics with a ratio, its parts and its target."""

SERVICE_TARGET = "oServiceTarget"
"""A metric with only a target, which captured answers have under the name `current`."""

CALL_FACTS = {
    "nOffered": "offered",
    "nConnected": "answered",
    "nTransferred": "transferred",
    "nOverSla": "over_target",
    "oMediaCount": "single",
    "tAnswered": "answered",
    "tAbandon": "abandoned",
    "tWait": "answered",
    "tTalk": "talk",
    "tHeld": "held",
    "tAcw": "after_call",
    "tHandle": "handle",
}
"""The fact of each metric of conversations. n* have a count; t* have max, min, count and sum of milliseconds; o* have the same of
a value, which is the simulator's own choice."""

FLOW_FACTS = {"nFlow": "flow", "tFlow": "flow"}
"""The fact of each metric of flows."""
