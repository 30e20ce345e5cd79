"""How a run in a terminal is watched and stopped."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from gankern._console import say, silence


@contextlib.contextmanager
def stopping() -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM ask for an orderly stop; a second Ctrl-C interrupts at once."""
    asked: list[int] = []

    def ask(number: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    try:
        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread
        before = {}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def progress(steps: int, start: int) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A bar on a terminal, else ten lines; none of them ends the run where they cannot be written."""
    if sys.stderr is not None and sys.stderr.isatty():
        from tqdm import tqdm

        bar = tqdm(total=steps, initial=start, unit="step", file=sys.stderr, dynamic_ncols=True)

        def advance(row: dict[str, Any]) -> None:
            if row["step"] % 10 == 0 or row["step"] == steps:
                bar.set_postfix_str(_losses(row), refresh=False)
            try:
                bar.update()
            except OSError:  # the terminal was closed
                silence(sys.stderr)

        try:
            yield advance
        finally:
            bar.close()
        return
    began = time.perf_counter()

    def line(row: dict[str, Any]) -> None:
        done = row["step"] - start
        if row["step"] % max(1, steps // 10) == 0 or row["step"] == steps:
            rate = done / (time.perf_counter() - began)
            say(f"step {row['step']:>7,} of {steps:,}   {_losses(row)}   {rate:.1f} steps/s")

    yield line


def _losses(row: dict[str, Any]) -> str:
    losses = {player: row[f"{player}.loss"] for player in ("critic", "generator")}
    return "  ".join(f"{player} {'overflow' if x is None else f'{x:+.3f}'}" for player, x in losses.items())
