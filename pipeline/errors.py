"""The branches of the exception tree that belong to outside systems (the tree: `fasten_model.errors`)."""

from fasten_model.errors import DataError, FastenError

__all__ = ["ConfigError", "DataError", "FastenError", "ServiceError", "ServiceUnavailable", "StackError"]


class ConfigError(FastenError):
    """A setting is missing or wrong; the message names it."""


class ServiceError(FastenError):
    """An outside system answered, and said no (wrong token, missing project, refused request)."""


class ServiceUnavailable(ServiceError):
    """An outside system did not answer, or answered 5xx: the same call may work later."""

    retry_after_s: float = 0.0
    """For how long it asks to be left alone."""


class StackError(FastenError):
    """The embedded stack could not be started, found or stopped."""
