"""Images by URL: fetched once ever, checked, kept.

Put together from `images.check` (what an image must be), `images.fetch` (where it may come from) and `images.store`
(where it is kept).
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
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

    def resolve(self, refs: Iterable[ImageRef]) -> Iterator[tuple[str, str | ImageError]]:
        """(url, hash, or why there is none) for every URL given, in no particular order.

        `refs` should be distinct; they are taken as needed, so there may be any number. What is known already costs a
        look-up. Raises `ServiceUnavailable` when ten fetches in a row find nobody who answers: that is an outage, not
        ten bad images, and a snapshot made of it would look as if the labels had gone.
        """
        pending: dict[Future[VerifiedImage], str] = {}
        remaining = iter(ref.url for ref in refs)
        more = True
        progress = _Progress()
        silent = 0
        pool = ThreadPoolExecutor(self._config.concurrency, thread_name_prefix="image")
        try:
            while more or pending:
                while more and len(pending) < 2 * self._config.concurrency:
                    url = next(remaining, None)
                    if url is None:
                        more = False
                    elif (known := self.store.known(self._key(url))) is not None:
                        yield url, known
                    else:
                        pending[pool.submit(self._obtain, url)] = url
                if not pending:
                    continue
                for future in wait(pending, return_when=FIRST_COMPLETED).done:
                    url = pending.pop(future)
                    progress.step()
                    try:
                        image = future.result()
                    except ImageError as error:
                        silent = 0
                        yield url, error
                    except ServiceUnavailable as error:
                        silent += 1
                        if silent >= _GIVE_UP_AFTER:
                            raise ServiceUnavailable(
                                f"{silent} images in a row could not be fetched: {error}"
                            ) from error
                        yield url, ImageError(UNREACHABLE, str(error))
                    else:
                        silent = 0
                        self.store.add(self._key(url), image)
                        yield url, image.sha256
            self.store.flush()
        finally:
            pool.shutdown(cancel_futures=True)
        progress.end()

    def _key(self, url: str) -> str:
        # A path means nothing without its server: two of them may well both have a /data/local-files/?d=1.png.
        return self._base_url + url if url.startswith("/") else url

    def _obtain(self, url: str) -> VerifiedImage:
        return verify_image(self._fetcher.fetch(url), self._config)


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
