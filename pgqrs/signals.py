"""Takes SIGTERM and SIGINT for a while, for all who want to hear them, and gives them back as they were."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Heard: TypeAlias = Callable[[signal.Signals], None]

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
#: Those of the main thread's event loop; Python hears signals nowhere else.
_listeners: list[Heard] = []
#: What was there before the first of them.
_before: dict[signal.Signals, Any] = {}


@contextlib.contextmanager
def taken(heard: Heard) -> Iterator[None]:
    """Call this, in the event loop, for each signal while the block runs; several may listen at the same time.

    Nothing is taken outside of the main thread. Handlers that the app has set with `loop.add_signal_handler` can't be
    given back; an app that has some takes the signals itself.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    if not _listeners:
        for number in _SIGNALS:
            _before[number] = signal.getsignal(number)
            loop.add_signal_handler(number, _tell_all, number)
    _listeners.append(heard)
    try:
        yield
    finally:
        _listeners.remove(heard)
        if not _listeners:
            for number in _SIGNALS:
                loop.remove_signal_handler(number)
                handler = _before.pop(number)
                signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _tell_all(number: signal.Signals) -> None:
    for heard in _listeners:
        heard(number)
