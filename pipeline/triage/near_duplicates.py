"""Images that look alike are not asked about twice in one batch: one answer says what the other would.

What looks alike is told by the trunk's features. A trained trunk draws a class together onto a small spot, so that by a
fixed cosine half of a class would be copies of the other half. Two things tell copies from mere members of a class:

* The directions in which members of a class differ are stretched to the same length (whitened by the covariance within
  the suggested classes): what the trunk squeezed together is spread out again, while a copy stays close.
* A distance counts against the neighbourhood it lies in: an image covers what is closer to it than `CLOSE` times its
  tenth neighbour. Half of the usual distance to a tenth neighbour counts where it lies in a crowd of copies, and
  `FAR` times that distance at most where it is one of a few of its class, with another class as its neighbourhood.

What is left out by mistake is not lost: it is open again in the next batch.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.triage.candidates import Open

Features = NDArray[np.float16] | NDArray[np.float32]
"""[N,D]: the trunk's, a row for each candidate."""
Floats = NDArray[np.float32]

CLOSE = 0.5
FAR = 1.5
NEIGHBOUR = 10
"""Fewer where classes are small: a third of the usual one, so that neighbours are of the same class."""
FEWEST = 5 * NEIGHBOUR
"""Among fewer images than this there are no neighbourhoods to speak of: only identical bytes count then."""
DIRECTIONS = 128
"""The most directions kept, those in which members of a class differ most."""
LEAST_VARIANCE = 0.01
"""Added to the variance in each direction, as a share of the largest: rounding is not to be blown up."""
SAMPLE = 20_000
"""Images that the directions are found from."""
BLOCK = 4_000_000
"""Numbers in memory at once, besides N·`DIRECTIONS`."""


class AlreadyShown:
    """What a batch shows, while it is filled."""

    def __init__(self, tried: Sequence[Open], features: Features | None) -> None:
        """tried: all that may come into the batch, in the order in which they will be tried. features: [N,D]."""
        self._place = {each.row: place for place, each in enumerate(tried)}
        self._hashes: set[str] = set()
        self._looks: _Neighbourhoods | None = None
        if features is not None and len(tried) >= FEWEST:
            groups = [each.candidate.model_label for each in tried]
            points = whitened(features, [each.row for each in tried], groups)
            usual = int(np.median(list(Counter(groups).values())))
            neighbour = min(NEIGHBOUR, max(2, usual // 3))
            self._looks = _Neighbourhoods(points, neighbour) if points.shape[1] else None

    def resembles(self, one: Open) -> bool:
        """Whether a chosen image shows what this one shows."""
        if one.candidate.image_sha256 in self._hashes:
            return True
        return self._looks is not None and bool(self._looks.covered[self._place[one.row]])

    def choose(self, one: Open) -> None:
        """This one is in the batch."""
        if one.candidate.image_sha256:
            self._hashes.add(one.candidate.image_sha256)
        if self._looks is not None:
            self._looks.cover(self._place[one.row])


def whitened(features: Features, rows: Sequence[int], groups: Sequence[str]) -> Floats:
    """float32 [n,d]: the features of these rows, of unit length, with unit variance within the groups.

    d is at most `DIRECTIONS`, and 0 where the images of every group have the same features. A row that is not finite
    becomes NaN and is close to nothing.
    """
    numbers = np.asarray(rows)
    some = np.unique(np.linspace(0, len(numbers) - 1, min(SAMPLE, len(numbers))).astype(np.int64))
    within = _unit_length(features[numbers[some]])
    _, group = np.unique(np.asarray(groups)[some], return_inverse=True)
    finite = np.isfinite(within).all(axis=1)
    within, group = within[finite], group[finite]
    for name in np.unique(group):
        within[group == name] -= within[group == name].mean(axis=0)
    variance, directions = np.linalg.eigh(within.T @ within / max(1, len(within)))
    variance, directions = variance[::-1][:DIRECTIONS], directions[:, ::-1][:, :DIRECTIONS]
    if variance[0] <= np.finfo(np.float32).eps:
        return np.empty((len(numbers), 0), np.float32)
    stretch = (directions / np.sqrt(variance.clip(0) + LEAST_VARIANCE * variance[0])).astype(np.float32)
    size = max(1, BLOCK // features.shape[1])
    return np.concatenate(
        [_unit_length(features[numbers[at : at + size]]) @ stretch for at in range(0, len(numbers), size)]
    )


def _unit_length(features: Features) -> Floats:
    long = features.astype(np.float32)
    long[~np.isfinite(long).all(axis=1)] = np.nan
    long /= np.maximum(np.linalg.norm(long, axis=1, keepdims=True), np.float32(1e-12))
    return long


class _Neighbourhoods:
    """Which of N points lie close to a chosen one. Distances are computed in blocks, and for chosen points only."""

    def __init__(self, points: Floats, neighbour: int) -> None:
        self.covered = np.zeros(len(points), dtype=np.bool_)
        self._points, self._neighbour = points, neighbour
        self._squares = np.einsum("nd,nd->n", points, points)
        self._size = max(1, BLOCK // len(points))
        self._at = 0
        self._block: Floats = np.empty((0, len(points)), np.float32)
        some = np.unique(np.linspace(0, len(points) - 1, 256).astype(np.int64))
        reaches = [self._reach(self._squared(some[at : at + self._size])) for at in range(0, len(some), self._size)]
        self._usual = float(np.nanmedian(np.concatenate(reaches)))

    def cover(self, place: int) -> None:
        """Everything close to this point, itself included."""
        if not self._at <= place < self._at + len(self._block):
            self._at = place
            self._block = self._squared(np.arange(place, min(place + self._size, len(self._points))))
        distances = self._block[place - self._at]
        reach = float(np.clip(self._reach(distances[None])[0], self._usual / 4, FAR**2 * self._usual))
        self.covered |= distances < CLOSE**2 * reach
        self.covered[place] = True

    def _squared(self, places: NDArray[np.int64]) -> Floats:
        """[b,N]: squared distances."""
        distances: Floats = (
            self._squares[places, None] + self._squares[None] - 2 * (self._points[places] @ self._points.T)
        )
        return distances.clip(min=0)

    def _reach(self, distances: Floats) -> Floats:
        """[b]: squared distance to the tenth neighbour; the nearest of all is the point itself."""
        return np.asarray(np.partition(distances, self._neighbour, axis=1)[:, self._neighbour])
