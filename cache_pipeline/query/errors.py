"""What can be wrong with a question before anything is sent."""


class QueryError(ValueError):
    """A query that cannot be asked; the text says what is wrong and how to mend it."""


class InvalidInterval(QueryError):
    """An interval that is reversed, empty, open, without an offset, or off its report's buckets."""


class UnknownReport(QueryError):
    """A report name that no declaration has."""


class InvalidQuery(QueryError):
    """A field of a query that its report cannot answer.

    Attributes:
        field: of the query, as ``group_by``.
        problem: what is wrong with it, and what there is instead.
    """

    def __init__(self, field: str, problem: str) -> None:
        self.field, self.problem = field, problem
        super().__init__(f"{field}: {problem}")
