"""Batches of images on the device: from a set that lies there, or read ahead where it does not fit."""

import os
from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from fasten_model.images.ahead import work_ahead
from fasten_model.images.source import Images, as_images

_SHARE = 0.5
"""Of what is free: the images may take this much, the network needs the rest."""
_AHEAD = 4
"""Batches read before they are asked for: they bound the memory that reading takes."""
_WORKERS = 2
"""Threads that read: one waits for the disk while the other copies."""
_CHUNK_BYTES = 64 * 2**20
"""What is moved at once of a set that goes to the device as a whole."""

_Sent = tuple[Tensor, torch.cuda.Event | None]
"""Images on the device, and what marks their arrival."""


class Feed:
    """Hands out images of one set by index, as uint8 on `device`.

    The whole set lies on the device where it fits `budget_bytes` (half of the memory that is free there, unless told):
    a batch is then one gather, and nothing waits for the device. A set that fits the machine but is not in memory, as a
    memory-mapped one, is left to the page cache by a CPU. Otherwise a few batches are read ahead by threads, through
    pinned memory and on a stream of their own on a GPU. An error while reading is raised to who takes the batch; the
    threads end with the iteration, however that ends.
    """

    def __init__(self, images: Tensor | Images, device: torch.device, *, budget_bytes: int | None = None) -> None:
        self.device = device
        there = isinstance(images, Tensor) and images.device == device
        budget = _budget(device) if budget_bytes is None else budget_bytes
        self._fits = (there and budget_bytes is None) or images.nbytes <= budget
        self._images: Tensor | Images  # a tensor: on the device
        if not self._fits:
            self._images = as_images(images)
        elif isinstance(images, Tensor):
            self._images = images.to(device)
        else:
            self._images = images if device.type == "cpu" else _move(images, device)
        self._stream: torch.cuda.Stream | None = None
        if not self._fits and device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    @property
    def resident(self) -> bool:
        """Whether nothing need be read ahead."""
        return self._fits

    def batches(self, indices: Sequence[Tensor]) -> Iterator[Tensor]:
        """For each of `indices` (CPU, int64 [B]) its images, uint8 [B,3,S,S], in that order."""
        if isinstance(self._images, Tensor) and indices:
            joined = torch.cat(tuple(indices))
            if self.device.type == "cuda":
                joined = joined.pin_memory().to(self.device, non_blocking=True)
            for index in torch.split(joined, [len(index) for index in indices]):
                yield self._images.index_select(0, index)
        elif not isinstance(self._images, Tensor):
            yield from map(self._images.take, indices) if self._fits else self._read_ahead(self._images, indices)

    def _read_ahead(self, source: Images, indices: Sequence[Tensor]) -> Iterator[Tensor]:
        for images, sent in work_ahead(partial(self._send, source), indices, threads=_WORKERS, depth=_AHEAD):
            if sent is not None:  # what is launched from here on waits for these images; the host does not
                current = torch.cuda.current_stream(self.device)
                current.wait_event(sent)
                images.record_stream(current)
            yield images

    def _send(self, source: Images, index: Tensor) -> _Sent:
        """In a thread: read, and on a GPU send off."""
        images = source.take(index)
        if self._stream is None:
            return images, None
        with torch.cuda.stream(self._stream):
            return images.pin_memory().to(self.device, non_blocking=True), self._stream.record_event()


def _budget(device: torch.device) -> int:
    if device.type == "cuda":
        return int(_SHARE * torch.cuda.mem_get_info(device)[0])
    return int(_SHARE * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def _move(images: Images, device: torch.device) -> Tensor:
    """The whole set on `device`, moved a piece at a time."""
    rows = max(1, _CHUNK_BYTES * len(images) // max(1, images.nbytes))
    whole = torch.empty(tuple(images.shape), dtype=torch.uint8, device=device)
    for start in range(0, len(images), rows):
        whole[start : start + rows] = images.take(torch.arange(start, min(start + rows, len(images))))
    return whole
