"""How a search reports its progress: a callable cannot pass through an operator's schema, so it waits beside it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

Progress = Callable[[int, int], None]


class _State(threading.local):
    report: Progress | None = None


_state = _State()


def current() -> Progress | None:
    """What the search that runs in this thread shall call with (pairs done, all pairs)."""
    return _state.report


@contextlib.contextmanager
def reporting(report: Progress | None) -> Iterator[None]:
    """Lets searches of this thread call `report`."""
    before, _state.report = _state.report, report
    try:
        yield
    finally:
        _state.report = before
