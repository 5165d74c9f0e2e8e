"""Data sets, label noise and the draw of one cell: what every method of the harness is given."""

from benchmarks.data.cell import Cell, draw_cell
from benchmarks.data.load import DATASETS, load_source
from benchmarks.data.noise import Noisy, apply_noise
from benchmarks.data.source import Role, Source
from benchmarks.data.spec import KINDS, NoiseSpec, parse_noise

__all__ = [
    "DATASETS",
    "KINDS",
    "Cell",
    "NoiseSpec",
    "Noisy",
    "Role",
    "Source",
    "apply_noise",
    "draw_cell",
    "load_source",
    "parse_noise",
]
