"""Images by URL: fetched once ever, checked, kept.

Put together from `images.check` (what an image must be), `images.fetch` (where it may come from) and `images.store`
(where it is kept).
"""

import hashlib
import logging
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Self

import httpx

from pipeline.errors import ServiceUnavailable
from pipeline.images.check import ImageConfig, ImageError, VerifiedImage, verify_image
from pipeline.images.fetch import ImageFetcher
from pipeline.images.store import ImageStore
from pipeline.records import ImageRef

logger = logging.getLogger(__name__)

UNREACHABLE = "image host does not answer"
_GIVE_UP_AFTER = 10
_PROGRESS_S = 10.0
_HOST = re.compile(r"[a-z0-9+.-]+://[^/?#]*", re.IGNORECASE)
_BUNCH = 256
_BUNCH_LETTERS = 4 * 2**20


class Images:
    """Turns image URLs into hashes of images that are safely in the store below `root`.

    `base_url` is Label Studio's, `authorization` gives the header for it (`LabelStudio.authorization`). A context
    manager: leaving it writes what is pending, also after an error.
    """

    def __init__(
        self,
        config: ImageConfig,
        *,
        root: Path,
        base_url: str,
        authorization: Callable[[], Mapping[str, str]],
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._config = config
        self._base_url = base_url.rstrip("/")
        self._fetcher = ImageFetcher(config, base_url=base_url, authorization=authorization, transport=transport)
        self.store = ImageStore(root)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._fetcher.close()
        self.store.__exit__(kind, error, trace)

    @property
    def settings(self) -> str:
        """Digest of what decides which images can be had: another one where a setting, or Label Studio, is another."""
        return hashlib.sha256(repr((self._base_url, self._config)).encode()).hexdigest()[:16]

    def resolve(self, refs: Iterable[ImageRef], *, again: bool = False) -> Iterator[tuple[str, str | ImageError]]:
        """(url, hash, or why there is none) for every image named, in no particular order.

        The URLs should be distinct; they are taken as needed, so there may be any number. What is known already costs a
        look-up. Raises `ServiceUnavailable` when ten fetches in a row find nobody who answers: that is an outage, not
        ten bad images, and a snapshot made of it would look as if the labels had gone. Unless they are asked for
        `again`: what could not be had before either takes no label away. Then a host that was silent ten times in a row
        is left alone, and the others are asked.
        """
        self.store.sweep()
        outage = _Outage(again=again)
        progress = _Progress()
        done: SimpleQueue[tuple[str, Future[VerifiedImage]]] = SimpleQueue()
        pool = ThreadPoolExecutor(self._config.concurrency, thread_name_prefix="image")
        running = 0
        try:
            for some in _bunches(refs):
                known = self.store.known([self._key(ref.url) for ref in some])
                for ref in some:
                    if (sha256 := known.get(self._key(ref.url))) is not None:
                        yield ref.url, sha256
                        continue
                    if (silent := outage.of(ref.url)) is not None:
                        yield ref.url, silent
                        continue
                    pool.submit(self._obtain, ref).add_done_callback(partial(_put, done, ref.url))
                    running += 1
                    if running >= 2 * self._config.concurrency:
                        yield self._settled(*done.get(), outage, progress)
                        running -= 1
            while running:
                yield self._settled(*done.get(), outage, progress)
                running -= 1
            self.store.flush()
        finally:
            pool.shutdown(cancel_futures=True)
        progress.end()

    def _settled(
        self, url: str, future: "Future[VerifiedImage]", outage: "_Outage", progress: "_Progress"
    ) -> tuple[str, str | ImageError]:
        """What came of one fetch; kept, where it is an image."""
        progress.step()
        self.store.flush_if_old()
        try:
            image = future.result()
        except ImageError as error:
            outage.over(url)
            return url, error
        except ServiceUnavailable as error:
            return url, outage.one_more(url, error)
        outage.over(url)
        self.store.add(self._key(url), image)
        return url, image.sha256

    def _key(self, url: str) -> str:
        # A path means nothing without its server: two of them may well both have a /data/local-files/?d=1.png.
        return self._base_url + url if url.startswith("/") else url

    def _obtain(self, ref: ImageRef) -> VerifiedImage:
        return verify_image(self._fetcher.fetch(ref), self._config)


def _put(done: "SimpleQueue[tuple[str, Future[VerifiedImage]]]", url: str, future: "Future[VerifiedImage]") -> None:
    done.put((url, future))


def _bunches(refs: Iterable[ImageRef]) -> Iterator[list[ImageRef]]:
    """As many as are looked up at once: some hundreds, and few where each URL is a whole image (`data:`)."""
    bunch: list[ImageRef] = []
    letters = 0
    for ref in refs:
        bunch.append(ref)
        letters += len(ref.url)
        if len(bunch) >= _BUNCH or letters >= _BUNCH_LETTERS:
            yield bunch
            bunch, letters = [], 0
    if bunch:
        yield bunch


class _Outage:
    """Tells ten silent answers in a row from ten bad images; of images that are asked for again, by host."""

    def __init__(self, *, again: bool) -> None:
        self._again = again
        self._silent = Counter[str]()
        self._last: dict[str, ServiceUnavailable] = {}

    def of(self, url: str) -> ImageError | None:
        """Why there is no use in asking for the image; None where there is."""
        host = self._host(url)
        return None if self._silent[host] < _GIVE_UP_AFTER else _unreachable(self._last[host])

    def over(self, url: str) -> None:
        del self._silent[self._host(url)]

    def one_more(self, url: str, error: ServiceUnavailable) -> ImageError:
        host = self._host(url)
        self._silent[host] += 1
        self._last[host] = error
        if self._silent[host] == _GIVE_UP_AFTER:
            line = f"{_GIVE_UP_AFTER} images in a row could not be fetched: {error}"
            if not self._again:
                raise ServiceUnavailable(line) from error
            logger.warning("%s; the others from there are left for another time", line)
        return _unreachable(error)

    def _host(self, url: str) -> str:
        """What is silent as a whole; empty for all that Label Studio is asked for by a path."""
        found = _HOST.match(url) if self._again else None
        return found[0].lower() if found else ""


def _unreachable(error: ServiceUnavailable) -> ImageError:
    return ImageError(UNREACHABLE, str(error), passing=True)


class _Progress:
    """Says now and then how many images were asked for, good or bad."""

    def __init__(self) -> None:
        self._asked = 0
        self._start = self._said = time.monotonic()

    def step(self) -> None:
        self._asked += 1
        if time.monotonic() - self._said >= _PROGRESS_S:
            self._said = time.monotonic()
            logger.info("%d images asked for (%.0f a second)", self._asked, self._rate())

    def end(self) -> None:
        if self._asked:
            logger.info("%d images asked for that were not known yet (%.0f a second)", self._asked, self._rate())

    def _rate(self) -> float:
        return self._asked / max(time.monotonic() - self._start, 1e-9)
