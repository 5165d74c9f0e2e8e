"""The exception tree of the whole project; every error a user can cause is a leaf of it.

* FastenError
    * DataError            labels, images or a model on disk that cannot be used
    * ConfigError          (pipeline) a setting that is missing or wrong
    * ServiceError         (pipeline) an outside system said no
        * ServiceUnavailable   it may answer later: worth a retry
    * StackError           (pipeline) the embedded stack could not be started or stopped

Each message names the thing, the value and the way out, in one line.
"""


class FastenError(Exception):
    """Root of the tree. Its text is one line, fit to be printed as it is."""


class DataError(FastenError):
    """Labels, images or a model on disk that cannot be used."""
