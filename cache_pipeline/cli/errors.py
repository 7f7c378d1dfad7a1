"""Bad input gets one line on standard error and exit code 2."""

from cache_pipeline.embedded import EmbeddedServerError
from cache_pipeline.fetch.completeness_checker import IncompleteAnswer
from cache_pipeline.fetch.staging import StagingUnwritable
from cache_pipeline.query.errors import QueryError
from cache_pipeline.query.schema import SchemaMismatch
from cache_pipeline.service.report_service import PlatformNotConfigured
from cache_pipeline.settings import SettingsError
from cache_pipeline.simulator.errors import SimulatorError
from cache_pipeline.storage.postgres.schemas import DeclarationConflict, HistoryUnavailable
from cache_pipeline.storage.published import EdgeStoreError
from cache_pipeline.upstream.errors import UpstreamError


class CommandError(Exception):
    """A command that cannot go on; the text is the line the user reads."""


#: Errors whose text is meant for the person at the terminal.
TOLD = (
    CommandError,
    DeclarationConflict,
    EdgeStoreError,
    EmbeddedServerError,
    HistoryUnavailable,
    IncompleteAnswer,
    PlatformNotConfigured,
    QueryError,
    SchemaMismatch,
    SettingsError,
    SimulatorError,
    StagingUnwritable,
    UpstreamError,
)
