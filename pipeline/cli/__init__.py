"""The command line: `fasten --help` is the map.

Every command ends with exit code 0, or with one line on standard error and exit code 1 (2 for wrong arguments).
"""

from pipeline.cli.app import main

__all__ = ["main"]
