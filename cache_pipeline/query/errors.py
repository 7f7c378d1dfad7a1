"""What can be wrong with a question before anything is sent."""


class QueryError(ValueError):
    """A query that cannot be asked; the text says what is wrong and how to mend it."""


class InvalidInterval(QueryError):
    """An interval that is reversed, empty, open, without an offset, or off its report's buckets."""


class UnknownReport(QueryError):
    """A report name that no declaration has."""
