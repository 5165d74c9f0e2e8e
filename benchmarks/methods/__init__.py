"""Every method of the harness, by the name that `--methods` takes."""

from collections.abc import Iterator, Mapping
from importlib import import_module

from benchmarks.methods.base import Method, Observer, Outcome, Problem

__all__ = ["METHODS", "Method", "Observer", "Outcome", "Problem"]

_PLACES = {
    "ce": "ce:run",
    "ce-clean": "ce_clean:run",
    "glc": "glc:run",
    "l2rw": "l2rw:run",
    "mw-net": "mw_net:run",
    "deep-knn": "deep_knn:run",
    "mloc": "mloc:run",
    "mlc": "mlc:run",
    "mslc": "mslc:run",
    "cleanlab": "confident_learning:run",
    "fasten-paper": "fasten:run_paper",
    "fasten": "fasten:run",
}
"""Name → module of this package and function; in the order of the paper's tables."""


class _Methods(Mapping[str, Method]):
    """Imported when asked for: cleanlab takes seconds, and most runs do without."""

    def __getitem__(self, name: str) -> Method:
        module, function = _PLACES[name].split(":")
        method: Method = getattr(import_module(f"{__name__}.{module}"), function)
        return method

    def __iter__(self) -> Iterator[str]:
        return iter(_PLACES)

    def __len__(self) -> int:
        return len(_PLACES)


METHODS: Mapping[str, Method] = _Methods()
"""`ce`, `ce-clean`, `glc`, …, `fasten`: the function that trains by that method."""
