"""Others that write to the same objects all the time: labels, and the order of their finalizers."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from tests.cluster.direct import Direct

LABEL = "storm"
DONE = 200
CONFLICT = 409
#: One that writes labels, so that it is known which one was the last, and others.
_WRITERS = 4


class Storm:
    """Writes to objects as fast as the API server takes it, from its beginning to its end."""

    def __init__(self, api: Direct, paths: Iterable[str]) -> None:
        """Take the objects.

        Args:
            api: the way to the API server.
            paths: of the objects; others can take their place at any time.
        """
        self._api = api
        self.paths = list(paths)
        #: The last label that each object was given.
        self.labels: dict[str, str] = {}
        #: How many writes were answered how, once it is over.
        self.answers: Counter[int] = Counter()
        self._numbers = itertools.count()
        self._over = threading.Event()
        self._threads = ThreadPoolExecutor(_WRITERS)
        self._running: list[Future[Counter[int]]] = []

    def __enter__(self) -> Self:
        self._running = [
            self._threads.submit(self._keep_on, write) for write in [self._label, *[self._reorder] * (_WRITERS - 1)]
        ]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._threads.shutdown()
        for thread in self._running:
            self.answers.update(thread.result())

    def _keep_on(self, write: Callable[[str], int]) -> Counter[int]:
        answers: Counter[int] = Counter()
        while not self._over.is_set():
            for path in list(self.paths):
                answers[write(path)] += 1
        return answers

    def _label(self, path: str) -> int:
        label = f"n{next(self._numbers)}"
        status, _ = self._api.ask("PATCH", path, {"metadata": {"labels": {LABEL: label}}})
        if status == DONE:
            self.labels[path] = label
        return status

    def _reorder(self, path: str) -> int:
        status, body = self._api.ask("GET", path)
        if status != DONE:
            return status
        # Of the version that was read: with a write in between, this one is refused.
        body["metadata"].get("finalizers", []).reverse()
        status, _ = self._api.ask("PUT", path, body)
        return status
