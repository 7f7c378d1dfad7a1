"""The aggregates families other than conversations, users and flows: their names from the vendor's SDK, and their permissions.

Names are checked as strictly as those of the other families. The figures are generated (`generated_figures.py`), and so are the
statistics of observations: max, min, count and sum. The service levels have the parts of a ratio, like that of conversations.
"""

from collections.abc import Mapping

from cache_pipeline.simulator.genesys_query import Family
from cache_pipeline.simulator.organisation import GENERATED_DIMENSIONS

_NAMES: Mapping[str, tuple[str, str]] = {
    "flowexecutions": (
        """
        nFlowExecutions
        """,
        """
        divisionId flowId flowObjectId flowVersion
        """,
    ),
    "bots": (
        """
        nBotSessionTurns nBotSessions oBotIntent oBotSessionCollection oBotSessionCollectionSelfServed oBotSessionQuery
        oBotSessionQuerySelfServed oBotSessionTurn oBotSlot tBotDisconnect tBotExit tBotRecognitionFailure tBotSession
        """,
        """
        askActionId askActionResult askActionType botFinalIntent botFlowSubType botFlowType botId botIntent botName
        botProduct botProvider botRecognitionFailureReason botResult botSessionId botSlot botSlotMechanism botVersion
        conversationId externalContactId intermediateIntentName knowledgeBaseId languageCode lastActionId lastInputActionId
        mediaType messageType previewMode selfServed
        """,
    ),
    "journeys": (
        """
        nDistinctJourneyActions nDistinctJourneySessions nJourneyActionsBlocked nJourneyOutcomesAchieved
        nJourneyOutcomesAttributed nJourneySegmentsAssigned nJourneySessions nWebActionsAbandoned nWebActionsAccepted
        nWebActionsEngaged nWebActionsErrored nWebActionsFrequencyCapReached nWebActionsIgnored nWebActionsOffered
        nWebActionsOfferedOutsideSchedule nWebActionsQualified nWebActionsQualifiedOutsideSchedule nWebActionsRejected
        nWebActionsStarted nWebActionsTimedout oJourneyOutcomeTouchpointValue oJourneyOutcomeValue
        """,
        """
        containsAllCondition containsAnyCondition endsWithCondition equalCondition journeyActionId journeyActionMapId
        journeyActionMapVersion journeyActionMediaType journeyActionTargetId journeyActionTemplateId
        journeyBlockingActionMapId journeyBlockingEmergencyScheduleGroupId journeyBlockingReason
        journeyBlockingScheduleGroupId journeyDeviceCategory journeyDeviceType journeyFrequencyCapReason
        journeyIpGeolocationCountry journeyOutcomeId journeySegmentAssignmentState journeySegmentId journeySessionId
        journeySessionSegmentId journeySessionType notContainsAllCondition notContainsAnyCondition notEqualCondition
        startsWithCondition touchpointActionMapId touchpointAgentId touchpointAttributionScope touchpointChannelMessageType
        touchpointChannelPlatform touchpointChannelType touchpointConversationId touchpointInteractionType touchpointQueueId
        touchpointRequestedRouting touchpointUsedRouting touchpointWrapupCode
        """,
    ),
    "knowledge": (
        """
        nDistinctKnowledgeSessions nKnowledgeDocumentCopied nKnowledgeDocumentFeedback nKnowledgeDocumentPresented
        nKnowledgeDocumentSurfaced nKnowledgeDocumentViewed nKnowledgeSearch nKnowledgeSearchAnswered
        nKnowledgeSearchFeedback nKnowledgeSearchUnanswered nKnowledgeSessions nKnowledgeV3Search oKnowledgeDocumentQuery
        oKnowledgeDocumentQuerySelfServed oKnowledgeSearch
        """,
        """
        agentAssistantId answerGenerationEnabled appDeploymentId appType botFlowId conversationChannelType conversationId
        documentEngagementType externalContactId feedbackCategory feedbackId feedbackRating feedbackRatingType
        feedbackRatingValue feedbackReason feedbackType hasComment hasRetrievedReferences hasSearch knowledgeBaseDocumentId
        knowledgeBaseDocumentVariationId knowledgeBaseDocumentVersionId knowledgeBaseId knowledgeSettingId languageCode
        mediaType messageType presentedDocumentsCount queryType queryTypeV3 queueId searchId searchQuery selfServed
        sessionId surfacingMethod userId
        """,
    ),
    "evaluations": (
        """
        nEvaluations nEvaluationsDeleted nEvaluationsRescored oTotalCriticalScore oTotalScore
        """,
        """
        assigneeApplicable assigneeId calibrationId contextId conversationId conversationStart divisionId
        evaluationContextId evaluationCreatedDate evaluationId evaluationReleaseDate evaluatorId formId mediaType queueId
        released rescored systemSubmitted teamId userId
        """,
    ),
    "surveys": (
        """
        nSurveyErrors nSurveyFullResponses nSurveyNpsDetractors nSurveyNpsPromoters nSurveyNpsResponses
        nSurveyPartialResponses nSurveyQuestionGroupResponses nSurveyQuestionResponses nSurveyResponses nSurveysAbandoned
        nSurveysDeleted nSurveysExpired nSurveysSent nSurveysStarted nVoiceSurveys nWebSurveys oSurveyQuestionGroupScore
        oSurveyQuestionScore oSurveyTotalScore
        """,
        """
        conversationId divisionId externalContactId mediaType queueId requestedLanguageId requestedRoutingSkillId
        surveyAnswerId surveyCreatedDate surveyErrorReason surveyFormContextId surveyFormId surveyFormName surveyId
        surveyPartialResponse surveyPreviousStatus surveyPromoterScore surveyQuestionGroupId surveyQuestionId surveyStatus
        surveyType teamId userId wrapUpCode
        """,
    ),
    "transcripts": (
        """
        nSpeechTextAnalyzedConversations nTopicCommunications oCustomerSentiment oOverTalkSpeechInstances oSentimentScore
        tAgentSpeech tCustomerSpeech tOtherAudio tOverTalkSpeech tSilence tTotalSpeechAndSilence
        """,
        """
        addressFrom addressTo ani categoryId channel conversationDuration conversationId direction divisionId dnis flowId
        flowVersion handleTime mediaType messageType queueId resultsBy teamId topicId userId wrapUpCode
        """,
    ),
    "taskmanagement": (
        """
        nWorkitemsAcdCancelled nWorkitemsAcdExpired nWorkitemsAcdStarted nWorkitemsAgentTransferred nWorkitemsCreated
        nWorkitemsDeclined nWorkitemsDeleted nWorkitemsDisconnected nWorkitemsOffered nWorkitemsOverSla nWorkitemsPurged
        nWorkitemsQueueTransferred nWorkitemsStatusChanged nWorkitemsTerminated nWorkitemsTimedout nWorkitemsTransferred
        nWorkitemsWrapupAdded nWorkitemsWrapupRemoved oWorkitemsServiceLevel tWorkitemsAgentFocusComplete tWorkitemsAlert
        tWorkitemsAnswered tWorkitemsDirectAnswered tWorkitemsFocus tWorkitemsFocusComplete tWorkitemsHandled tWorkitemsHeld
        tWorkitemsHeldComplete tWorkitemsNotResponding tWorkitemsParked tWorkitemsQueueAnswered tWorkitemsStatus
        """,
        """
        assigneeId caseId divisionId externalTag queueId reporterId requestedLanguageId requestedRouting
        requestedRoutingSkillId statusCategory statusId typeId usedRouting userId workbinId workitemId wrapUpCode
        """,
    ),
    "casemanagement": (
        """
        nCaseAssociationsCreated nCasesDeleted nCasesOpened nCasesOverSla nCasesPurged nCasesStatusChanged nCasesTerminated
        oCasesServiceLevel tCasesResolved tCasesStatus
        """,
        """
        associationType caseId caseplanId conversationId customerIntentId divisionId ownerId priority stageId status stepId
        workitemId
        """,
    ),
    "resolutions": (
        """
        nNextContactAvoided
        """,
        """
        conversationId externalContactId mediaType queueId requestedRouting usedRouting userId wrapUpDate
        """,
    ),
    "summaries": (
        """
        nConversationSummaries nConversationSummaryEngagements tConversationSummary
        """,
        """
        conversationId copied editedField errorType language mediaType messageType presented queueId summaryGenerated
        summaryId summaryRating triggerSourceId triggerSourceOutcome triggerSourceType triggerType userId wrapUpCodeRating
        wrapUpCodeSuggestionSelected wrapupCodesGenerated wrapupCodesSupported
        """,
    ),
    "agentcopilots": (
        """
        nCannedResponseSuggestions nDistinctConversations nDistinctSuggestions nKnowledgeAnswerSuggestions
        nKnowledgeArticleSuggestions nKnowledgeSearchSuggestions nScriptSuggestions
        """,
        """
        agentAssistantId cannedResponseId cannedResponseLibraryId chunkCount conversationId engagementType externalContactId
        feedbackRating hasAnswerHighlight hasGeneratedAnswer knowledgeBaseDocumentId knowledgeBaseDocumentVersionId
        knowledgeSettingId mediaType messageId queueId scriptId scriptPageId searchId state suggestionId suggestionType
        triggerType userId utteranceId
        """,
    ),
    "copilots": (
        """
        nCopilotMessages nCopilotSessions nCopilotToolInvocations nCopilotUsers
        """,
        """
        agentId divisionId sessionId toolId toolStatus toolType userId
        """,
    ),
    "agentutilizations": (
        """
        oAgentAvailableUtilization oAgentMaxUtilization oAgentUtilizationPercentage
        """,
        """
        mediaType userId
        """,
    ),
    "actions": (
        """
        tTotalExecution
        """,
        """
        actionCategory actionId actionName correlationId errorType integrationId integrationName responseStatus
        """,
    ),
}

_PERMISSIONS: Mapping[str, tuple[str, ...]] = {
    "flowexecutions": ("analytics:flowExecutionAggregate:view",),
    "bots": ("analytics:botAggregate:view",),
    "journeys": ("analytics:journeyAggregate:view",),
    "knowledge": ("analytics:knowledgeAggregate:view",),
    "evaluations": ("analytics:evaluationAggregate:view",),
    "surveys": ("analytics:surveyAggregate:view",),
    "transcripts": ("analytics:speechAndTextAnalyticsAggregates:view",),
    "taskmanagement": ("analytics:taskManagementAggregate:view",),
    "casemanagement": ("analytics:caseManagementAggregate:view",),
    "resolutions": ("analytics:resolutionAggregate:view",),
    "summaries": ("analytics:summaryAggregate:view",),
    "agentcopilots": ("analytics:agentCopilotAggregate:view",),
    "copilots": ("analytics:copilotsAggregate:view",),
    "agentutilizations": ("analytics:agentUtilizationAggregate:view",),
    "actions": ("integrations:action:view", "bridge:actions:view"),
}


def _family(name: str) -> Family:
    metrics, dimensions = (frozenset(text.split()) for text in _NAMES[name])
    return Family(
        name,
        metrics,
        dimensions,
        _PERMISSIONS[name],
        facts={metric: metric for metric in metrics},
        generated_dimensions=tuple(sorted(dimensions & GENERATED_DIMENSIONS.keys())),
    )


OTHER_FAMILIES: tuple[Family, ...] = tuple(_family(name) for name in _NAMES)
