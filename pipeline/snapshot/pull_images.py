"""The images of a pull: which are asked for, and what the mirror keeps of what came of it."""

import json
import logging
from collections.abc import Iterator
from datetime import datetime
from itertools import chain, islice

from pipeline.errors import ServiceUnavailable
from pipeline.images import Images
from pipeline.images.again import is_due
from pipeline.records import ImageRef
from pipeline.snapshot.mirror import Mirror

logger = logging.getLogger(__name__)

_IMAGES_A_COMMIT = 500
_UNFINISHED = "unfinished"


def fetch_images(images: Images, mirror: Mirror, now: datetime, *, only_new: bool = False) -> None:
    """Fetch the images that are not there yet; also those that could not be had (`images.again`).

    All of these are asked for once a day, and at once where a setting is another: what was refused may be allowed now.
    `only_new`: those only that were never asked for.
    What the mirror says of images that are there holds for the files that the store had when a pull last ended its
    fetching. Where some of these are gone, or a pull died with images in memory, the store is asked about each anew.
    """
    before = mirror.noted("image files")
    if before == _UNFINISHED or set(json.loads(before or "[]")) - _files(images):
        mirror.forget_images()
    asked, settings = mirror.noted("failed images asked for"), mirror.noted("image settings")
    if settings is None:
        mirror.note("image settings", images.settings)
    again = (is_due(asked, now) or settings not in (None, images.settings)) and not only_new
    if not only_new:  # first: what fails below need not be asked for twice
        _fetch(images, mirror, mirror.failing(everything=again), now, again=True)
    _fetch(images, mirror, mirror.wanted(), now)
    if (asked is None and not only_new) or again:
        mirror.note("failed images asked for", now.isoformat())
    if not only_new:
        mirror.note("image settings", images.settings)
    mirror.note("image files", json.dumps(sorted(_files(images))))


def _fetch(
    images: Images, mirror: Mirror, addresses: Iterator[tuple[str, int]], now: datetime, *, again: bool = False
) -> None:
    first = next(addresses, None)
    if first is None:
        return
    mirror.note("image files", _UNFINISHED)
    refs = (ImageRef(url=url, task_id=task_id) for url, task_id in chain([first], addresses))
    found = images.resolve(refs, again=again)
    try:
        while group := list(islice(found, _IMAGES_A_COMMIT)):
            mirror.set_images(group, now=now)
    finally:
        images.store.flush()  # while no other pull writes there


class EarlyImages:
    """Fetches images while Label Studio is still being read; an outage of theirs is no reason to end that."""

    def __init__(self, images: Images, mirror: Mirror, now: datetime) -> None:
        self._images, self._mirror, self._now = images, mirror, now
        self._out = False

    def __call__(self) -> None:
        try:
            if not self._out:
                fetch_images(self._images, self._mirror, self._now, only_new=True)
        except ServiceUnavailable as error:
            logger.warning("images are fetched later: %s", error)
            self._out = True


def _files(images: Images) -> set[str]:
    return {file.name for file in images.store.files()}
