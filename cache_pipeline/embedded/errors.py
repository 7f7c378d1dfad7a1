"""The one error that embedded servers raise."""


class EmbeddedServerError(RuntimeError):
    """An embedded server cannot be run; the message says what, where and how to mend it."""
